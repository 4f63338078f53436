"""`/healthz`, `/livez`, `/readyz`, `/metrics`, `/status` and `/flows`, answered from memory.

Everybody who reaches the port may probe and scrape. What names policies and pods, and the reasons
of a failed check, are for who is on this host. Only GET and HEAD; nothing here changes anything.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enforcer.telemetry import checks
from enforcer.telemetry.checks import Check
from enforcer.telemetry.document import VERSION, document
from enforcer.telemetry.endpoint import same_host
from enforcer.telemetry.metrics import Metrics
from enforcer.telemetry.status import Status
from enforcer.telemetry.times import rfc3339

LIMITS = (100, 1000)  # flows of an answer: by default, and at most
VERDICTS = ("denied", "audited")
# RFC 1123: the name of a namespace is a label, that of a pod a subdomain; a pod may be named by
# its address as well.
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
POD = re.compile(r"[a-z0-9:]([-a-z0-9.:]{0,251}[a-z0-9:])?")
WITHHELD = "reason withheld"
ELSEWHERE = (
    "this is told to who is on the node: kubectl exec into the enforcer's pod, and netpol-enforcer"
    " status"
)


class Flows(Protocol):
    """What was seen on this host, newest first. An empty filter is none."""

    async def __call__(
        self, *, namespace: str, pod: str, verdict: str, limit: int
    ) -> Sequence[Mapping[str, Any]]: ...


class BadQuery(ValueError):
    """A query parameter that means nothing; the text names it."""


def application(status: Status, metrics: Metrics, flows: Flows | None = None) -> Starlette:
    """The routes. Where `flows` is None there are none to ask for."""
    routes = [
        Route("/metrics", _metrics(metrics)),
        Route("/status", _status(status)),
        Route("/flows", _flows(flows)),
    ]
    for endpoint, judge in (
        ("healthz", checks.live),
        ("livez", checks.live),
        ("readyz", checks.ready),
    ):
        routes.append(Route(f"/{endpoint}", _all(endpoint, status, judge)))
        routes.append(Route(f"/{endpoint}/{{name}}", _one(status, judge)))
    return Starlette(routes=routes)


Judge = Callable[[Status], list[Check]]
Handler = Callable[[Request], Any]


def _all(endpoint: str, status: Status, judge: Judge) -> Handler:
    """As kube-apiserver answers, k8s.io/apiserver `pkg/server/healthz`."""

    async def answer(request: Request) -> Response:
        query = request.query_params
        excluded = set(query.getlist("exclude"))
        here, lines, failed = _here(request), [], False
        for check in judge(status):
            if check.name in excluded:
                lines.append(f"[+]{check.name} excluded: ok")
            elif check.ok:
                note = f": {check.reason}" if check.reason and here else ""
                lines.append(f"[+]{check.name} ok{note}")
            else:
                failed = True
                why = _line(check.reason) if here else WITHHELD
                lines.append(f"[-]{check.name} failed: {why}")
            excluded.discard(check.name)
        lines += [f"warn: there is no check {_line(name)}" for name in sorted(excluded)]
        lines += _warnings(status) if here else []
        lines.append(f"{endpoint} check {'failed' if failed else 'passed'}")
        body = "\n".join([*lines, ""]) if failed or "verbose" in query else "ok"
        return _text(body, 500 if failed else 200)

    return answer


def _one(status: Status, judge: Judge) -> Handler:
    async def answer(request: Request) -> Response:
        for check in judge(status):
            if check.name == request.path_params["name"]:
                if check.ok:
                    return _text("ok")
                why = _line(check.reason) if _here(request) else WITHHELD
                return _text(f"internal server error: {why}\n", 500)
        return _text("there is no such check\n", 404)

    return answer


def _warnings(status: Status) -> list[str]:
    """What fails no check."""
    return [
        f"warn: {source.resource}: {source.server} has been away since {rfc3339(source.since)}:"
        f" {_line(source.error)}"
        for source in status.away()
    ]


def _metrics(metrics: Metrics) -> Handler:
    async def answer(request: Request) -> Response:
        content, media = await metrics.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": media})

    return answer


def _status(status: Status) -> Handler:
    async def answer(request: Request) -> Response:
        return _json(document(status)) if _here(request) else _text(ELSEWHERE + "\n", 403)

    return answer


def _flows(flows: Flows | None) -> Handler:
    async def answer(request: Request) -> Response:
        if not _here(request):
            return _text(ELSEWHERE + "\n", 403)
        if flows is None:
            return _text("this enforcer reports no flows\n", 404)
        try:
            asked = query(request.query_params.multi_items())
        except BadQuery as error:
            return _text(f"{_line(str(error))}\n", 400)
        found = await flows(**asked)
        return _json({"apiVersion": VERSION, "kind": "FlowList", "items": found})

    return answer


def query(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The arguments of a `Flows`. `BadQuery`."""
    given: dict[str, Any] = {"namespace": "", "pod": "", "verdict": "", "limit": str(LIMITS[0])}
    seen = set()
    for name, value in parameters:
        if name not in given:
            raise BadQuery(f"{name!r} is no parameter; there are {', '.join(given)}")
        if name in seen:
            raise BadQuery(f"{name} is given twice")
        seen.add(name)
        given[name] = value
    for name, pattern in (("namespace", NAMESPACE), ("pod", POD)):
        if given[name] and not pattern.fullmatch(given[name]):
            raise BadQuery(f"{name}: {given[name]!r} is no name")
    if given["verdict"] not in ("", *VERDICTS):
        raise BadQuery(f"verdict: {given['verdict']!r} is none of {', '.join(VERDICTS)}")
    limit = given["limit"]
    if not re.fullmatch(r"[0-9]{1,6}", limit) or not 0 < int(limit) <= LIMITS[1]:
        raise BadQuery(f"limit: {limit!r} is no number from 1 to {LIMITS[1]}")
    return given | {"limit": int(limit)}


def _here(request: Request) -> bool:
    client, server = request.client, request.scope.get("server")
    return client is not None and server is not None and same_host(client.host, server[0])


def _line(text: str) -> str:
    return " ".join(text.split())


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value) + b"\n", media_type="application/json")


def _text(body: str, code: int = 200) -> Response:
    headers = {"X-Content-Type-Options": "nosniff"}
    return Response(body, status_code=code, media_type="text/plain", headers=headers)
