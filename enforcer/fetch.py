"""The shell around the reflector: HTTP requests to the API server, and nothing decided here."""

import asyncio
import json
import random
from collections.abc import Callable

import httpx
import structlog

from enforcer.reflector import (
    Apply,
    Ended,
    Failed,
    Gone,
    Input,
    Line,
    Listed,
    Output,
    Phase,
    Replace,
    State,
    advance,
)

PAGE = 500
CONNECT_TIMEOUT = 5.0  # seconds
READ_TIMEOUT = 75.0  # seconds; servers send a bookmark at least once a minute
WATCH_SECONDS = (300, 600)  # the server ends a watch after a time drawn from here

log = structlog.get_logger()


def client(server: str) -> httpx.AsyncClient:
    """One connection pool for all resources. The environment's proxies are for other traffic."""
    timeout = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
    return httpx.AsyncClient(base_url=server, timeout=timeout, trust_env=False)


async def follow(
    http: httpx.AsyncClient,
    path: str,
    tell: Callable[[Replace | Apply], None],
    *,
    rand: random.Random,
) -> None:
    """Keep `tell` informed of a resource, for ever."""
    state = State()

    def step(event: Input) -> None:
        nonlocal state
        output: Output
        state, output = advance(state, event, rand)
        if output is not None:
            tell(output)

    while True:
        if state.wait:
            await asyncio.sleep(state.wait)
        request = _list if state.phase is Phase.LIST else _watch
        try:
            await request(http, path, state, step, rand)
        except (httpx.HTTPError, ValueError) as error:
            log.warning("request failed", path=path, phase=state.phase.value, error=repr(error))
            step(Failed())


async def snapshot(http: httpx.AsyncClient, path: str) -> Replace:
    """The whole state once, for commands that do not stay. `httpx.HTTPError` as it comes."""
    state, output = State(), None
    rand = random.Random(0)

    def step(event: Input) -> None:
        nonlocal state, output
        if not isinstance(event, Listed):
            raise httpx.HTTPError(f"{path} could not be listed")
        state, output = advance(state, event, rand)

    while not isinstance(output, Replace):
        await _list(http, path, state, step, rand)
    return output


async def _list(
    http: httpx.AsyncClient,
    path: str,
    state: State,
    step: Callable[[Input], None],
    rand: random.Random,
) -> None:
    query = {"limit": str(PAGE), **({"continue": state.token} if state.token else {})}
    response = await http.get(path, params=query)
    if response.status_code == 410:
        step(Gone())
        return
    response.raise_for_status()
    body = response.json()
    metadata = body["metadata"]
    items = tuple(item for item in body.get("items") or () if isinstance(item, dict))
    step(Listed(items, str(metadata.get("resourceVersion", "")), metadata.get("continue") or ""))


async def _watch(
    http: httpx.AsyncClient,
    path: str,
    state: State,
    step: Callable[[Input], None],
    rand: random.Random,
) -> None:
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": state.revision,
        "timeoutSeconds": str(rand.randint(*WATCH_SECONDS)),
    }
    async with http.stream("GET", path, params=query) as response:
        if response.status_code == 410:
            step(Gone())
            return
        response.raise_for_status()
        async for line in response.aiter_lines():
            event = json.loads(line)
            if not isinstance(event, dict):
                raise ValueError("a line of the watch is no event")
            step(Line(event))
            if event.get("type") == "ERROR":
                return
    step(Ended())
