"""The verdicts of `/readyz` and `/livez`, drawn from a `Status`. Pure.

A server that is away makes no enforcer unready: the ruleset stays as it is, packet for packet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from enforcer.telemetry.status import RESOURCES, Status
from enforcer.telemetry.times import rfc3339

# Seconds. The longest commit that was measured, 200,000 elements at once, takes less than two; the
# longest wait between two attempts is ten.
HANGS = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """`reason` says why not; of one that passes, what there is to know nevertheless."""

    name: str
    ok: bool
    reason: str = ""


def ready(status: Status) -> list[Check]:
    """Whether what this node enforces is what it should, in the order in which they are shown."""
    return [Check(name, *check(status)) for name, check in READY.items()]


def live(status: Status) -> list[Check]:
    """Whether the process would be better off restarted."""
    return [Check(name, *check(status)) for name, check in LIVE.items()]


Verdict = tuple[bool, str]


def _synced(status: Status) -> Verdict:
    if status.complete:
        return True, ""
    missing = [resource for resource in RESOURCES if resource not in status.listed]
    why = f"not listed yet: {', '.join(missing)}" if missing else "nothing has been committed yet"
    if status.restored_from is not None:
        why += f"; meanwhile the state of {rfc3339(status.restored_from)} is enforced"
    return False, why


def _commit(status: Status) -> Verdict:
    failure = status.failure
    if failure is None or failure.over:
        return True, ""
    return False, f"attempt {failure.attempts} failed: {failure.error}"


def _bypass(status: Status) -> Verdict:
    found = status.bypassed()
    return not found, "; ".join(f"{finding.subject}: {finding.text}" for finding in found)


def _canary(status: Status) -> Verdict:
    if status.probe is None or status.probe.ok is None:
        return True, "off"
    return status.probe.ok, "" if status.probe.ok else status.probe.reason


def _table(status: Status) -> Verdict:
    different = status.differences
    if not different:
        return True, ""
    return False, f"it is not as it should be, differences: {len(different)}, first: {different[0]}"


def _loop(status: Status) -> Verdict:
    """That this is answered says that the event loop turns; this looks at the sync loop in it."""
    if not status.listed.issuperset(RESOURCES) or status.committing_since is not None:
        return True, ""
    waiting = min(status.pending_seconds() or 0.0, status.monotonic() - status.turned)
    if waiting <= HANGS:
        return True, ""
    return False, f"a change has waited for {waiting:.0f} s and nothing was attempted"


def _hang(status: Status) -> Verdict:
    begun = status.committing_since
    seconds = 0.0 if begun is None else status.monotonic() - begun
    if seconds <= HANGS:
        return True, ""
    return False, f"a commit has not ended for {seconds:.0f} s"


READY: Mapping[str, Callable[[Status], Verdict]] = {
    "synced": _synced,
    "commit": _commit,
    "bypass": _bypass,
    "canary": _canary,
    "table": _table,
}
LIVE: Mapping[str, Callable[[Status], Verdict]] = {"loop": _loop, "commit": _hang}
