"""The floor: the least that a server of this kind can do, as a process of its own.

`python -m bench.floor pages PORT FOLDER` is a bare Starlette application whose routes answer with
the files of the folder; `fanout` is a bare ASGI application that sends the bytes of a file to
every open response. Both run under uvicorn as `apiserver.main` sets it up: what of its settings
bears on a request is the same here.
"""

import asyncio
import json
import sys
from pathlib import Path

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from apiserver.server import KEEP_ALIVE

PAGES = "pages.json"  # a path for each file that holds its answer
EVENT = "event"  # the file of one event's bytes
WATCH = "/watch"
BURST = "/burst/"  # and how many events to send


def pages(folder: Path) -> ASGIApp:
    """One bare route for each path."""
    return Starlette(
        routes=[
            _route(path, (folder / name).read_bytes())
            for path, name in json.loads((folder / PAGES).read_bytes()).items()
        ]
    )


def _route(path: str, content: bytes) -> Route:
    async def page(request: Request) -> Response:
        return Response(content, media_type="application/json")

    return Route(path, page)


class Fanout:
    """Keeps every `GET /watch` open; `POST /burst/N` sends each of them N events."""

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._open: list[Send] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        if scope["path"].startswith(BURST):
            await self._burst(int(scope["path"].removeprefix(BURST)))
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            self._open.append(send)
            while (await receive())["type"] != "http.disconnect":
                pass
            self._open.remove(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _burst(self, events: int) -> None:
        for _ in range(events):
            for send in self._open:
                await send({"type": "http.response.body", "body": self._line, "more_body": True})
            # uvloop joins all that is written in one turn of the loop; a live event is no batch.
            await asyncio.sleep(0)


async def serve(kind: str, port: int, folder: Path) -> None:
    """Serve until SIGINT or SIGTERM."""
    app = pages(folder) if kind == "pages" else Fanout((folder / EVENT).read_bytes())
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
    )
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
