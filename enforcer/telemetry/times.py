"""Moments and spans as people and programs read them. Pure."""

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """A moment in seconds of the epoch, in UTC and to the millisecond."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """A span in the two largest units that it has, as `kubectl get` shows an age."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"
