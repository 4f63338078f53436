"""The shell around the reflector: HTTP requests to the API server, and nothing decided here."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import orjson
import structlog

from enforcer import refusal
from enforcer.access import Access, BadAccess
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
    gone,
)

PAGE = 500
CONNECT_TIMEOUT = 5.0  # seconds
READ_TIMEOUT = 75.0  # seconds; servers send a bookmark at least once a minute
WATCH_SECONDS = (300, 600)  # the server ends a watch after a time drawn from here
REMIND = 60.0  # seconds until a failure that goes on is logged again

# The server, and its last error or an empty text.
Report = Callable[[str, str], None]

log = structlog.get_logger()


class Refused(httpx.HTTPError):
    """The server answered, with an error; the text says what helps."""


class Connection:
    """Requests to one API server, as its `Access` says.

    What is behind it is read again for each request. Certificates that are new get new
    connections; what runs over an old one runs on. `BadAccess` where the first reading fails.
    """

    def __init__(self, read: Callable[[], Access]) -> None:
        self._read = read
        self._complaint = ""
        self.access = read()
        self._http = _client(self.access)
        self._users = {self._http: 0}

    async def close(self) -> None:
        for http in list(self._users):
            await http.aclose()

    def refresh(self) -> None:
        """Take over what has changed; what cannot be used now is complained of once."""
        try:
            fresh = self._read()
            if fresh.connection != self.access.connection:
                self._http = _client(fresh)
                self._users[self._http] = 0
                log.info("connecting anew: server or certificates are others", server=fresh.server)
        except BadAccess as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("credentials cannot be read; the last ones stay", error=str(error))
        else:
            self.access, self._complaint = fresh, ""

    @contextlib.asynccontextmanager
    async def get(self, path: str, query: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer, its body not read yet. `httpx.HTTPError`."""
        access, http = self.access, self._http
        headers = {"Accept": "application/json", "User-Agent": "netpol-enforcer"}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        extensions = {"sni_hostname": access.server_name} if access.server_name else {}
        self._users[http] += 1
        try:
            async with http.stream(
                "GET", path, params=query, headers=headers, extensions=extensions
            ) as response:
                yield response
        finally:
            self._users[http] -= 1
            for old in [old for old, users in self._users.items() if not users]:
                if old is not self._http:
                    del self._users[old]
                    await old.aclose()


def _client(access: Access) -> httpx.AsyncClient:
    """One connection pool for all resources. The environment's proxies are for other traffic."""
    context = access.context()
    try:
        return httpx.AsyncClient(
            base_url=access.server,
            verify=context,
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            trust_env=False,
        )
    except httpx.InvalidURL as error:
        raise BadAccess(f"{access.origin}: server: {access.server!r}: {error}") from None


async def follow(
    connection: Connection,
    path: str,
    tell: Callable[[Replace | Apply], Awaitable[None]],
    *,
    rand: random.Random,
    report: Report = lambda server, error: None,
) -> None:
    """Keep `tell` informed of a resource, for ever, and `report` of how the server answers."""
    state = State()
    server = connection.access.server
    trouble = _Trouble(path, report)

    async def step(event: Input) -> None:
        nonlocal state
        output: Output
        state, output = advance(state, event, rand)
        if output is not None:
            await tell(output)

    while True:
        if state.wait:
            await asyncio.sleep(state.wait)
        connection.refresh()
        if connection.access.server != server:
            # Revisions of one server may mean something else at another.
            server = connection.access.server
            await step(Gone())
        request = _list if state.phase is Phase.LIST else _watch
        try:
            await request(connection, path, state, step, rand, trouble.over)
        except (httpx.HTTPError, ValueError) as error:
            trouble.told(state.phase.value, connection.access.server, _text(error))
            await step(Failed())


class _Trouble:
    """Logs a failure when it begins, changes or goes on for long, and its end."""

    def __init__(self, path: str, report: Report = lambda server, error: None) -> None:
        self._path = path
        self._report = report
        self._error = ""
        self._logged = self._since = 0.0

    def told(self, phase: str, server: str, error: str) -> None:
        self._report(server, error)
        now = asyncio.get_running_loop().time()
        self._since = self._since if self._error else now
        if error != self._error or now > self._logged + REMIND:
            log.warning(
                "request failed",
                path=self._path,
                phase=phase,
                server=server,
                error=error,
                meanwhile="the ruleset stays as it is",
            )
            self._logged = now
        self._error = error

    def over(self, server: str) -> None:
        self._report(server, "")
        if self._error:
            away = asyncio.get_running_loop().time() - self._since
            log.info("following again", path=self._path, seconds=round(away, 1))
        self._error = ""


def _text(error: Exception) -> str:
    """httpx's time-outs have no words of their own."""
    kind, words = type(error).__name__, " ".join(str(error).split())
    return words if isinstance(error, Refused) else f"{kind}: {words}" if words else kind


async def snapshot(connection: Connection, path: str) -> Replace:
    """The whole state once, for commands that do not stay. `httpx.HTTPError` as it comes."""
    state, output = State(), None
    rand = random.Random(0)
    server = connection.access.server

    async def step(event: Input) -> None:
        nonlocal state, output
        if not isinstance(event, Listed):
            raise httpx.HTTPError(f"{server}: {path} could not be listed")
        state, output = advance(state, event, rand)

    while not isinstance(output, Replace):
        try:
            await _list(connection, path, state, step, rand, _Trouble(path).over)
        except (httpx.HTTPError, ValueError) as error:
            raise httpx.HTTPError(f"{server}: {path}: {_text(error)}") from error
    return output


async def _list(
    connection: Connection,
    path: str,
    state: State,
    step: Callable[[Input], Awaitable[None]],
    rand: random.Random,
    works: Callable[[str], None],
) -> None:
    query = {"limit": str(PAGE), **({"continue": state.token} if state.token else {})}
    async with connection.get(path, query) as response:
        if not await _accepted(connection, response, path, "list"):
            await step(Gone())
            return
        body = _object(await response.aread())
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        raise ValueError("the answer is no list: it has no metadata")
    works(connection.access.server)
    items = tuple(item for item in body.get("items") or () if isinstance(item, dict))
    revision, token = metadata.get("resourceVersion", ""), metadata.get("continue") or ""
    await step(Listed(items, str(revision), token))


async def _watch(
    connection: Connection,
    path: str,
    state: State,
    step: Callable[[Input], Awaitable[None]],
    rand: random.Random,
    works: Callable[[str], None],
) -> None:
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": state.revision,
        "timeoutSeconds": str(rand.randint(*WATCH_SECONDS)),
    }
    async with connection.get(path, query) as response:
        if not await _accepted(connection, response, path, "watch"):
            await step(Gone())
            return
        works(connection.access.server)
        async for line in response.aiter_lines():
            event = _object(line)
            told = event.get("object")
            if event.get("type") == "ERROR" and isinstance(told, dict) and not gone(0, told):
                raise Refused(f"{told.get('code')}: {told.get('message')}")
            await step(Line(event))
            if event.get("type") == "ERROR":
                return
    await step(Ended())


async def _accepted(connection: Connection, response: httpx.Response, path: str, verb: str) -> bool:
    """False where the revision or the continue token means nothing there. `Refused`."""
    if response.status_code == 200:
        return True
    content = await response.aread()
    status: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        status = _object(content)
    code = response.status_code
    if gone(code, status):
        return False
    message = str(status.get("message") or response.text)
    raise Refused(refusal.reason(path, verb, code, message, origin=connection.access.origin))


def _object(content: bytes | str) -> dict[str, Any]:
    found = orjson.loads(content)
    if not isinstance(found, dict):
        raise ValueError("the answer is no object")
    return found
