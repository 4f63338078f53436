"""Requests to the cluster's API server."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import structlog

from apiserver.cluster.access import Access

TIMEOUT = 10.0  # seconds, as upstream for its reviews
DELIVERY = 30.0  # seconds, as upstream for its webhooks
SILENCE = 75.0  # seconds without a line of a watch; servers send a bookmark once a minute
CLOSE_AFTER = 660.0  # seconds that connections outlive others in their place: more than a watch
LOOK = 10.0  # seconds between two looks whether a file was replaced
Json = dict[str, Any]

log = structlog.get_logger()


class Unreachable(Exception):
    """No answer came, or none that can be read."""


class Refused(Exception):
    """The cluster answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Cluster:
    """Asks as the user of an `Access`. Certificates and tokens may be replaced meanwhile."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._contents = access.contents()
        self._http = self._connect()
        self._looked = 0.0
        name = access.server_name
        self._extensions = {"sni_hostname": name} if name else {}

    async def get(self, path: str, **query: str) -> Json:
        """`Unreachable`, `Refused`."""
        return await self._ask("GET", path, query, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """`Unreachable`, `Refused`."""
        return await self._ask("POST", path, {}, body)

    async def deliver(self, content: bytes) -> None:
        """POST JSON to the very URL of the `Access`, whatever that says. `Unreachable`, `Refused`.

        For webhooks that are named by a kubeconfig.
        """
        with _failures():
            response = await self._fresh().post(
                self.access.server,
                content=content,
                headers={**self._headers(), "Content-Type": "application/json"},
                timeout=DELIVERY,
                extensions=self._extensions,
            )
            if not response.is_success:
                raise _refusal(response)

    @contextlib.asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[AsyncIterator[Json]]:
        """The events of a watch, as they come. `Unreachable`, `Refused`."""
        timeout = httpx.Timeout(TIMEOUT, read=SILENCE)
        with _failures():
            http = self._fresh()
            async with http.stream(
                "GET",
                path,
                params={"watch": "true", **query},
                headers=self._headers(),
                timeout=timeout,
                extensions=self._extensions,
            ) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                yield _events(response)

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> Json:
        with _failures():
            response = await self._fresh().request(
                method,
                path,
                params=query,
                json=body,
                headers=self._headers(),
                extensions=self._extensions,
            )
            if response.is_error:
                raise _refusal(response)
            return _object(response.content)

    def _fresh(self) -> httpx.AsyncClient:
        """The connections; new ones once the files behind them are others."""
        now = asyncio.get_running_loop().time()
        if now > self._looked + LOOK:
            self._looked = now
            contents = self.access.contents()
            if contents != self._contents:
                fresh, self._contents = self._connect(), contents
                self._http, old = fresh, self._http
                asyncio.get_running_loop().call_later(
                    CLOSE_AFTER, lambda: asyncio.ensure_future(old.aclose())
                )
                log.info("the certificates for the cluster were read again")
        return self._http

    def _connect(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.access.server,
            verify=self.access.context(),
            timeout=httpx.Timeout(TIMEOUT),
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    def _headers(self) -> dict[str, str]:
        if self.access.token is None:
            return {}
        return {"Authorization": f"Bearer {self.access.token.read().decode().strip()}"}


@contextlib.contextmanager
def _failures() -> Any:
    try:
        yield
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise Unreachable(repr(error)) from error


def _refusal(response: httpx.Response) -> Refused:
    try:
        message = str(_object(response.content).get("message") or "")
    except ValueError:
        message = response.text[:200]
    return Refused(response.status_code, message)


def _object(content: bytes) -> Json:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("the answer is no object")
    return found


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    async for line in response.aiter_lines():
        yield _object(line.encode())
