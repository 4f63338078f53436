"""Records of denied flows: who was stopped, how often, since when, and why."""
