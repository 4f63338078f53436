"""Wire the server: one FastAPI application from a store, a clock and a source of randomness.

`main` builds the store and serves the application; tests build it over any store. Its lifespan
owns the tasks: the watch cache, the namespace controller and the compaction of history.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from apiserver import files
from apiserver.api import status
from apiserver.api.origins import Origins
from apiserver.cache.cacher import Cacher
from apiserver.http import access, discovery, probes, storage_metrics
from apiserver.http.cors import Cors
from apiserver.http.limits import Limits
from apiserver.http.metrics import Metrics
from apiserver.http.middleware import Envelope, failed
from apiserver.http.probes import Check
from apiserver.http.request_info import by_version
from apiserver.http.resources import Resources
from apiserver.lifecycle import Lifecycle
from apiserver.registry import history
from apiserver.registry.gate import Gate, NamespaceGate
from apiserver.registry.large import Aside, Room
from apiserver.registry.measured import Measured
from apiserver.registry.namespaces import NamespaceController
from apiserver.registry.reader import Reader
from apiserver.registry.strategies import EXTENSION, STRATEGIES
from apiserver.registry.writer import Writer
from storage import Renewable, Store

if TYPE_CHECKING:  # what it takes to speak with a cluster is not loaded without one
    from apiserver.extension import Extension
    from apiserver.http.audit import Auditor

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tuning:
    """The limits of a server: requests under way at once, and times in seconds.

    A watch that asks for no time ends after once to twice `min_watch`. History is kept for
    `retention`; what is older is forgotten every `compaction`, or never if that is 0.
    """

    reads: int = 400
    writes: int = 200
    timeout: float = 60.0
    min_watch: float = 1800.0
    retention: float = 3600.0
    compaction: float = 300.0


def create_app(
    *,
    store: Store,
    lifecycle: Lifecycle,
    clock: Callable[[], float],
    rand: random.Random,
    tuning: Tuning,
    store_name: str = "storage",
    extension: "Extension | None" = None,
    auditor: "Auditor | None" = None,
    origins: Origins = (),
) -> ASGIApp:
    """FastAPI within an envelope, which knows the way to the hot paths.

    Without an `extension` of a cluster it is standalone: it has namespaces of its own, and no
    users. `store_name` is what the probes call the check of the store. Without an `auditor` no
    request is audited; whoever made it closes it. Pages of `origins` may use the server.
    """
    strategies = STRATEGIES if extension is None else EXTENSION
    served = [strategy.resource for strategy in strategies]
    engine = store
    store = measured = Measured(store, served)
    cacher = Cacher(store=store, resources=served)
    gate: Gate = NamespaceGate(store=store, cacher=cacher)
    if extension is not None:
        gate = extension.gate
    aside, room = Aside("large objects"), Room()
    writer = Writer(store=store, gate=gate, clock=clock, rand=rand, aside=aside, room=room)
    reader = Reader(store=store, cacher=cacher)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work: dict[str, Coroutine[Any, Any, None]] = {"watch cache": cacher.run()}
        if extension is None:
            controller = NamespaceController(writer=writer, cacher=cacher, strategies=strategies)
            work["namespace controller"] = controller.run()
        else:
            work |= extension.tasks()
        if isinstance(engine, Renewable) and engine.files:
            what = "client certificate for the store"
            work[what] = files.follow(engine.files, engine.renew, what=what)
        if tuning.compaction:
            work["compaction"] = history.compact(
                store, retention=tuning.retention, interval=tuning.compaction
            )
        tasks = [asyncio.create_task(task, name=name) for name, task in work.items()]
        for task in tasks:
            task.add_done_callback(stop_if_failed)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await store.close()
            if extension is not None:
                await extension.close()

    def stop_if_failed(task: asyncio.Task[None]) -> None:
        """A server whose cache no longer follows the store must not go on answering from it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("task failed; the server stops", task=task.get_name(), exc_info=error)
            lifecycle.failed.set()
            os.kill(os.getpid(), signal.SIGTERM)

    async def ping() -> bool:
        return True

    async def storage_answers() -> bool:
        return (await store.get(history.KEY))[1] > 0

    async def synced() -> bool:
        return cacher.ready

    async def serving() -> bool:
        return not lifecycle.draining.is_set()

    def undecodable() -> list[str]:
        count = sum(len(objects.broken) for objects in cacher.all())
        text = f"{count} stored object{'s do' if count > 1 else ' does'} not decode"
        return [f"{text}; their keys are in the log"] if count else []

    live: dict[str, Check] = {"ping": ping, store_name: storage_answers}
    ready = {**live, "informer-sync": synced, "shutdown": serving}
    if extension is not None:
        ready |= {name: _later(check) for name, check in extension.checks().items()}
    limits = Limits(tuning.reads, tuning.writes, tuning.timeout, lifecycle.stopping)
    sources = [storage_metrics.collector(measured, cacher, reader)]
    if auditor is not None:
        sources.append(auditor.collect)
    if extension is not None:
        sources.append(extension.collect)
    metrics = Metrics(limits=limits, sources=sources)
    guard, admission = None, None
    if extension is not None:
        guard, admission = extension.guard, extension.admission
    resources = Resources(
        strategies=strategies,
        reader=reader,
        writer=writer,
        cacher=cacher,
        metrics=metrics,
        stopping=lifecycle.stopping,
        clock=clock,
        rand=rand,
        min_watch=tuning.min_watch,
        aside=aside,
        room=room,
        guard=guard,
        admission=admission,
    )
    app = FastAPI(
        title="networkpolicys",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    routers = [
        discovery.router(served),
        probes.router({"healthz": live, "livez": {"ping": ping}, "readyz": ready}, undecodable),
    ]
    if extension is None:
        routers.append(access.router())
    for router in routers:
        app.include_router(router)
    exposition = Route("/metrics", metrics.serve)
    index = discovery.Index([exposition, *(route for r in routers for route in r.routes)])
    app.router.routes.append(exposition)
    app.router.routes.append(Route("/", index.found))
    app.router.default = index
    for kind in (HTTPException, status.StatusError, Exception):
        app.add_exception_handler(kind, _failed)
    envelope = Envelope(
        app,
        served=by_version(served),
        resources=resources,
        limits=limits,
        metrics=metrics,
        draining=lifecycle.draining,
        guard=guard,
        auditor=auditor,
    )
    return Cors(envelope, origins) if origins else envelope


def _later(check: Callable[[], bool]) -> Check:
    async def answer() -> bool:
        return check()

    return answer


async def _failed(request: Request, error: Exception) -> Response:
    """What goes wrong in FastAPI's routes, in the words of all other errors."""
    if isinstance(error, HTTPException):  # its router refuses nothing but methods
        error = status.method_not_allowed((error.headers or {}).get("Allow", "GET, HEAD"))
    return failed(error, request.scope)
