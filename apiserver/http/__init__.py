"""The HTTP border: the only place that knows status codes, headers and media types."""
