"""One blocking HTTP connection for what is not measured: making objects, reading answers once."""

import http.client
from urllib.parse import urlsplit

HEADERS = {
    "Accept": "application/json, */*",
    "Accept-Encoding": "identity",
    "User-Agent": "bench/1.0 (linux/amd64)",
}
JSON = {"Content-Type": "application/json"}


class Connection:
    """A kept-alive connection to one server. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of the answer. `RuntimeError` where the answer is an error."""
        kind = JSON if body is not None else {}
        self._http.request(method, path, body, {**HEADERS, **kind})
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:500]!r}")
        return data


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL, for a raw socket."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def request(method: str, url: str, path: str, body: bytes | None = None) -> bytes:
    """The bytes of a request, with the headers that a Go client would send."""
    host, port = address(url)
    headers = {"Host": f"{host}:{port}", **HEADERS}
    if body is not None:
        headers |= {**JSON, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
