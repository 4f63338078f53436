"""Wire the server: one FastAPI application from a store, a clock and a source of randomness.

`main` builds the store and serves the application; tests build it over any store. Its lifespan
owns the tasks: the watch cache, the namespace controller and the compaction of history.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable

import structlog
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from apiserver.api import status
from apiserver.cache.cacher import Cacher
from apiserver.http import discovery, probes, responses
from apiserver.http.middleware import Envelope
from apiserver.http.resources import Resources
from apiserver.registry.gate import NamespaceGate
from apiserver.registry.history import compact
from apiserver.registry.namespaces import NamespaceController
from apiserver.registry.reader import Reader
from apiserver.registry.strategies import STRATEGIES
from apiserver.registry.writer import Writer
from storage import Store

log = structlog.get_logger()


def create_app(
    *,
    store: Store,
    stopping: asyncio.Event,
    clock: Callable[[], float],
    rand: random.Random,
) -> FastAPI:
    """The standalone server. Setting `stopping` turns readiness red and ends every watch."""
    cacher = Cacher(store=store, resources=[strategy.resource for strategy in STRATEGIES])
    gate = NamespaceGate(store=store)
    writer = Writer(store=store, gate=gate, clock=clock, rand=rand)
    reader = Reader(store=store, cacher=cacher)
    controller = NamespaceController(writer=writer, gate=gate, cacher=cacher, strategies=STRATEGIES)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(cacher.run(), name="watch cache"),
            asyncio.create_task(controller.run(), name="namespace controller"),
            asyncio.create_task(compact(store), name="compaction"),
        ]
        for task in tasks:
            task.add_done_callback(_stop_if_failed)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await store.close()

    async def ping() -> bool:
        return True

    async def storage_answers() -> bool:
        return await store.revision() > 0

    async def synced() -> bool:
        return cacher.ready

    async def serving() -> bool:
        return not stopping.is_set()

    live = {"ping": ping, "storage": storage_answers}
    ready = {**live, "informer-sync": synced, "shutdown": serving}
    resources = Resources(
        strategies=STRATEGIES,
        reader=reader,
        writer=writer,
        cacher=cacher,
        stopping=stopping,
        clock=clock,
        rand=rand,
    )
    app = FastAPI(
        title="networkpolicys",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    served = [strategy.resource for strategy in STRATEGIES]
    app.include_router(discovery.router(served))
    app.include_router(probes.router({"healthz": live, "livez": {"ping": ping}, "readyz": ready}))
    for root in ("/api/{path:path}", "/apis/{path:path}", "/net.alpha.kubernetes.io/{path:path}"):
        app.router.routes.append(Route(root, resources))
    app.router.default = _unknown
    app.add_middleware(Envelope)
    app.add_exception_handler(HTTPException, _refused)
    return app


def _stop_if_failed(task: asyncio.Task[None]) -> None:
    """A server whose cache no longer follows the store must not go on answering from it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("task failed; the server stops", task=task.get_name(), exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


async def _refused(request: Request, error: Exception) -> Response:
    """What FastAPI's own router refuses, in the words of all other errors."""
    wrong_method = isinstance(error, HTTPException) and error.status_code == 405
    return responses.failure(status.method_not_allowed() if wrong_method else status.unknown_path())


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    await responses.failure(status.unknown_path())(scope, receive, send)
