"""`/livez`, `/readyz` and `/healthz`: is the process well, and may it get traffic?

k8s.io/apiserver `pkg/server/healthz`: a failure says which check failed, never why (that is in the
log). The kubelet and a load balancer read them; the demo waits on `/readyz`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

STORAGE_TIMEOUT = 2.0  # seconds
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]  # upstream's answer to any

Check = Callable[[], Awaitable[bool]]

log = structlog.get_logger()


def router(
    checks: Mapping[str, Mapping[str, Check]], warnings: Callable[[], Sequence[str]]
) -> APIRouter:
    """Routes for each endpoint (`livez`) with its named checks, together and one by one.

    `warnings` are told to who asks for all, and fail nothing.
    """
    routes = APIRouter()
    for endpoint, named in checks.items():
        routes.add_api_route(f"/{endpoint}", _all(endpoint, named, warnings), methods=METHODS)
        for name, check in named.items():
            routes.add_api_route(f"/{endpoint}/{name}", _one(check), methods=METHODS)
    return routes


def _all(
    endpoint: str, named: Mapping[str, Check], warnings: Callable[[], Sequence[str]]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        query = request.query_params
        excluded = set(query.getlist("exclude"))
        lines, failed = [], False
        for name, check in named.items():
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
            elif await _passes(name, check):
                lines.append(f"[+]{name} ok")
            else:
                failed = True
                lines.append(f"[-]{name} failed: reason withheld")
        if unknown := excluded - set(named):
            texts = ",".join(f'"{name}"' for name in sorted(unknown))
            lines.append(f"warn: some health checks cannot be excluded: no matches for {texts}")
        lines += [f"warn: {text}" for text in warnings()]
        verdict = f"{endpoint} check {'failed' if failed else 'passed'}"
        body = "\n".join([*lines, verdict, ""]) if failed or "verbose" in query else "ok"
        return _text(body, 500 if failed else 200)

    return answer


def _one(check: Check) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        if await _passes("check", check):
            return _text("ok", 200)
        return _text("internal server error: check failed", 500)

    return answer


async def _passes(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(STORAGE_TIMEOUT):
            return await check()
    except Exception as error:  # noqa: BLE001  whatever it is, the check has failed
        log.warning("health check failed", check=name, error=repr(error))
        return False


def _text(body: str, code: int) -> Response:
    headers = {"X-Content-Type-Options": "nosniff"}
    return Response(body, status_code=code, media_type="text/plain", headers=headers)
