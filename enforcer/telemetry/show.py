"""`netpol-enforcer status`: ask the enforcer of this host how it is, and print it for people."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import typer

from enforcer.telemetry.endpoint import DEFAULT, Endpoint
from enforcer.telemetry.times import span

VARIABLE = "NETPOL_METRICS_BIND_ADDRESS"
PATIENCE = 5.0  # seconds
NOT_READY, UNREACHABLE = 1, 2  # exit statuses

Json = Mapping[str, Any]

Address = Annotated[
    str,
    typer.Option(
        envvar=VARIABLE, help="Where the enforcer serves: its --metrics-bind-address, or a URL."
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="json for the document; left out: for people.")
]


class Unreachable(Exception):
    """The enforcer did not answer what it was asked; the text is one line that says why."""


def register(app: typer.Typer) -> None:
    """Add the command to those of `netpol-enforcer`."""
    app.command(name="status")(status)


def status(address: Address = DEFAULT, output: Output = "") -> None:
    """Print what is enforced; exit status 1 if the enforcer is not ready, 2 if it is not reached.

    The reason is one line on standard error.
    """
    if output not in ("", "json"):
        raise typer.BadParameter(f"-o {output}: there is json only")
    try:
        document = fetch(address, "/status")
    except Unreachable as error:
        sys.stderr.write(f"netpol-enforcer: {error}\n")
        raise typer.Exit(UNREACHABLE) from None
    if output:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in render(document, datetime.now(UTC)))
    if not document.get("ready"):
        sys.stderr.write(f"netpol-enforcer: not ready: {_unready(document)}\n")
        raise typer.Exit(NOT_READY)


def fetch(address: str, path: str, query: Mapping[str, str | int] | None = None) -> Json:
    """A document of the enforcer at `address`, which is as in `--metrics-bind-address` or a URL.

    `Unreachable` where there is none, or where it answers anything but 200, in its own words.
    """
    url = _url(address)
    parameters = {name: str(value) for name, value in (query or {}).items()}
    try:
        # The environment's proxies are for other traffic.
        answer = httpx.get(url + path, params=parameters, timeout=PATIENCE, trust_env=False)
        if answer.status_code != 200:
            words = " ".join(answer.text.split())[:300]
            raise Unreachable(f"{url}{path}: {answer.status_code}: {words}")
        document = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        words = str(error) or type(error).__name__
        raise Unreachable(f"{url}{path}: {words}; is the enforcer running?") from error
    except ValueError as error:
        raise Unreachable(f"{url}{path}: the answer is no JSON; is it an enforcer?") from error
    if not isinstance(document, dict):
        raise Unreachable(f"{url}{path}: the answer is no document of an enforcer")
    return document


def _url(address: str) -> str:
    if address.startswith("http://"):
        return address.rstrip("/")
    try:
        endpoint = Endpoint.parse(address)
    except ValueError as error:
        raise Unreachable(str(error)) from error
    if endpoint is None:
        raise Unreachable("it serves nothing: --metrics-bind-address is off")
    return endpoint.url


def _unready(document: Json) -> str:
    failed = [check for check in document.get("checks") or () if not check["ok"]]
    return printable("; ".join(f"{check['name']}: {check['reason']}" for check in failed))


def render(document: Json, now: datetime) -> Iterator[str]:
    """Lines for people: what is enforced, then a table of each thing that there is to see."""
    for name, value in _facts(document, now):
        yield printable(f"{name:<12}{value}".rstrip())
    sources = [
        (s["resource"], s["server"], s["state"], _age(s["since"], now), s["error"])
        for s in document["sources"]
    ]
    yield from table(("SOURCE", "SERVER", "STATE", "FOR", "ERROR"), sources)
    yield from table(
        ("INVALID POLICY", "ERRORS"),
        [(f"{p['namespace']}/{p['name']}", "; ".join(p["errors"])) for p in _invalid(document)],
    )
    yield from table(
        ("ADDRESS OF SEVERAL PODS", "PODS"),
        [(c["address"], ", ".join(c["pods"])) for c in document["addressConflicts"]],
    )
    yield from table(
        ("BYPASS", "SUBJECT", "SEVERITY", "FINDING"),
        [(f["kind"], f["subject"], f["severity"], f["text"]) for f in document["bypass"]],
    )


def _facts(document: Json, now: datetime) -> Iterator[tuple[str, str]]:
    yield "Node", document["node"] or "(every pod)"
    yield "Ready", "yes" if document["ready"] else f"no: {_unready(document)}"
    flags = ", ".join(document["table"]["flags"])
    yield "Table", document["table"]["name"] + (f" ({flags})" if flags else "")
    yield from _enforced(document, now)
    pending = document["pending"]
    yield (
        "Pending",
        f"changes since {span(pending['oldestSeconds'])}" if pending["changes"] else "none",
    )
    policies = document["policies"]
    yield "Policies", f"{policies['enforced']} enforced, {policies['invalidCount']} invalid"
    canary = document["canary"]
    yield "Canary", canary["state"] + (f": {canary['reason']}" if canary["reason"] else "")
    if error := document["lastError"]:
        state = "over" if error["over"] else f"attempt {error['attempts']}"
        yield "Last error", f"{_age(error['at'], now)} ago, {state}: {error['error']}"
    if repair := document["lastRepair"]:
        who = f"{repair['program']}[{repair['pid']}]"
        yield "Last repair", f"{_age(repair['at'], now)} ago, after {who}: {repair['what']}"
    if verified := document["lastVerify"]:
        found = "as it should be" if verified["ok"] else f"differences: {verified['differences']}"
        yield "Last verify", f"{_age(verified['at'], now)} ago: {found}"


def _enforced(document: Json, now: datetime) -> Iterator[tuple[str, str]]:
    enforced = document["enforced"]
    if enforced is None:
        yield "Enforced", "nothing yet"
        return
    classes = "" if enforced["classes"] is None else f" in {enforced['classes']} classes"
    yield "Enforced", f"for {_age(enforced['since'], now)}, digest {enforced['digest']}"
    if enforced["restoredFrom"]:
        yield "", f"the state that was saved {_age(enforced['restoredFrom'], now)} ago"
    yield (
        "Revisions",
        ", ".join(f"{resource} {revision}" for resource, revision in enforced["revisions"].items()),
    )
    yield "Pods", f"{enforced['pods']}{classes}, {enforced['elements']} elements"
    if commit := document["lastCommit"]:
        seconds = commit["timeToEnforceSeconds"]
        took = "" if seconds is None else f", {seconds * 1000:.1f} ms after the event"
        yield "Last commit", f"{_age(commit['at'], now)} ago{took}"


def _invalid(document: Json) -> list[Json]:
    return list(document["policies"]["invalid"])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """An empty line, the head and the rows in columns; nothing where there are no rows."""
    if not rows:
        return
    cells = [list(head), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield ""
    for line in cells:
        yield "   ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()


def printable(text: str) -> str:
    """Without what would steer a terminal: names and errors repeat what users wrote."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _age(moment: str, now: datetime) -> str:
    return span((now - datetime.fromisoformat(moment)).total_seconds())
