"""The JSON of `/status`, made of a `Status`. Pure. Its fields: docs/enforcer-status.md."""

from heapq import nsmallest
from typing import Any

from enforcer.telemetry import checks
from enforcer.telemetry.status import Status
from enforcer.telemetry.times import rfc3339

VERSION = "netpol-enforcer/v1"
SHOWN = 20  # differences of a verification; their number is told in any case
MOST = 500  # invalid policies and address conflicts, so that no mistake makes an answer slow


def document(status: Status) -> dict[str, Any]:
    """Moments are RFC 3339 in UTC, spans seconds. What has not happened is null."""
    verdicts = checks.ready(status)
    pending = status.pending_seconds()
    enforced = status.enforced
    return {
        "apiVersion": VERSION,
        "kind": "EnforcerStatus",
        "node": status.node,
        "startTime": rfc3339(status.started),
        "ready": all(check.ok for check in verdicts),
        "checks": [{"name": c.name, "ok": c.ok, "reason": c.reason} for c in verdicts],
        "table": {"name": status.table_name, "flags": list(status.table_flags)},
        "enforced": _enforced(status),
        "pending": {"changes": pending is not None, "oldestSeconds": _seconds(pending)},
        "policies": {
            "enforced": 0 if enforced is None else enforced.policies,
            "invalidCount": len(status.invalid_policies),
            "invalid": [
                {"namespace": namespace, "name": name, "errors": errors.split("; ")}
                for (namespace, name), errors in nsmallest(MOST, status.invalid_policies.items())
            ],
        },
        "addressConflictCount": len(status.address_conflicts),
        "addressConflicts": [
            {"address": address, "pods": list(pods)}
            for address, pods in nsmallest(MOST, status.address_conflicts.items())
        ],
        "sources": [
            {
                "resource": source.resource,
                "server": source.server,
                "state": "following" if source.ok else "away",
                "error": source.error,
                "since": rfc3339(source.since),
            }
            for source in status.sources.values()
        ],
        "bypass": [
            {
                "kind": str(finding.kind),
                "subject": finding.subject,
                "text": finding.text,
                "severity": str(finding.severity),
            }
            for finding in status.findings
        ],
        "canary": _canary(status),
        "lastCommit": _commit(status),
        "lastError": _failure(status),
        "lastRepair": _repair(status),
        "lastVerify": _verification(status),
    }


def _enforced(status: Status) -> dict[str, Any] | None:
    enforced = status.enforced
    if enforced is None:
        return None
    restored = status.restored_from
    return {
        "revisions": dict(enforced.revisions),
        "since": rfc3339(enforced.since),
        "digest": enforced.digest,
        "pods": enforced.pods,
        "classes": None if enforced.classes < 0 else enforced.classes,
        "elements": enforced.elements,
        "restoredFrom": None if restored is None else rfc3339(restored),
    }


def _commit(status: Status) -> dict[str, Any] | None:
    commit = status.last_commit
    if commit is None:
        return None
    return {
        "at": rfc3339(commit.at),
        "watchSeconds": _seconds(commit.watch),
        "computeSeconds": _seconds(commit.compute),
        "commitSeconds": _seconds(commit.commit),
        "timeToEnforceSeconds": _seconds(commit.enforce),
    }


def _canary(status: Status) -> dict[str, Any]:
    probe = status.probe
    if probe is None or probe.ok is None:
        return {"state": "off", "reason": "" if probe is None else probe.reason, "at": None}
    state = "ok" if probe.ok else "failed"
    return {"state": state, "reason": probe.reason, "at": rfc3339(probe.at)}


def _failure(status: Status) -> dict[str, Any] | None:
    failure = status.failure
    if failure is None:
        return None
    return {
        "error": failure.error,
        "at": rfc3339(failure.at),
        "attempts": failure.attempts,
        "over": failure.over,
    }


def _repair(status: Status) -> dict[str, Any] | None:
    repair = status.last_repair
    if repair is None:
        return None
    return {
        "pid": repair.pid,
        "program": repair.program,
        "what": repair.what,
        "at": rfc3339(repair.at),
    }


def _verification(status: Status) -> dict[str, Any] | None:
    found = status.last_verification
    if found is None:
        return None
    return {
        "ok": found.ok,
        "at": rfc3339(found.at),
        "differences": len(found.differences),
        "first": list(found.differences[:SHOWN]),
    }


def _seconds(value: float | None) -> float | None:
    """To the microsecond."""
    return None if value is None else round(value, 6)
