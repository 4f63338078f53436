"""The wait socket: a pod's start is held until the kernel has its rules.

`netpol-cni` asks here, once for each pod that is set up or torn down. What a claim means for the
ruleset is no matter of this module: `programmed` and `released` are given to it.
"""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import structlog

from enforcer.cni import claim as protocol
from enforcer.cni.claim import (
    BadRequest,
    Claim,
    ClaimRequest,
    Refused,
    ReleaseRequest,
    UnsupportedVersion,
)

SOCKET = Path("/run/netpol/wait.sock")
# A node has a few hundred pods. With what else is open it must stay below 1,024 descriptors, which
# is a usual limit.
WAITING = 512
RESERVE = 64  # connections above WAITING, so that releases pass while pods wait
SAY = 5.0  # seconds in which a client has to say what it wants

log = structlog.get_logger()

# Returns when the kernel holds the pod's rules with these addresses; `Refused` when it never will.
# Cancelled when the client leaves or its time is over. Asked again for the same claim, it answers
# again. The claim holds on after either, until it is released: a runtime tears down what failed.
Programmed = Callable[[Claim], Awaitable[None]]
# The sandbox's addresses are free again; without `ips`, all that it has claimed. Asked for what was
# never claimed, or claimed by another sandbox since, it does nothing.
Released = Callable[[Claim], None]


async def serve(
    *,
    path: Path = SOCKET,
    programmed: Programmed,
    released: Released,
    waiting: int = WAITING,
) -> None:
    """Answer until cancelled; clients that wait then are left without an answer, and come again.

    `OSError` when there can be no socket: `EADDRINUSE` where another process answers on it.
    """
    clients = _Clients(programmed=programmed, released=released, waiting=waiting)
    with _listening(path) as listener:
        log.info("pods may wait for their rules", socket=str(path))
        async with asyncio.TaskGroup() as tasks:
            while True:
                connection = await clients.accept(listener)
                tasks.create_task(clients.serve(connection), name="wait client")


class _Clients:
    """Those connected, and how many of them wait. Others stay in the listener's queue."""

    def __init__(self, *, programmed: Programmed, released: Released, waiting: int) -> None:
        self._programmed = programmed
        self._released = released
        self._most = waiting
        self._waiting = 0
        self._places = asyncio.Semaphore(waiting + RESERVE)

    async def accept(self, listener: socket.socket) -> socket.socket:
        """The next client, once there is a place for it."""
        await self._places.acquire()
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:
                log.error("a client cannot be accepted", error=str(error))
                await asyncio.sleep(1)  # descriptors do not come back sooner by asking
            else:
                return connection

    async def serve(self, connection: socket.socket) -> None:
        """One question and its answer."""
        try:
            reader, writer = await asyncio.open_unix_connection(
                sock=connection, limit=protocol.LINE
            )
            try:
                if line := await self._answer(reader):
                    writer.write(line)
                    await writer.drain()
            finally:
                # The line is in the kernel already; who does not read it is not waited for.
                writer.transport.abort()
        except ConnectionError:
            pass  # it has left
        finally:
            self._places.release()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """The line to say; empty for one who has left."""
        try:
            async with asyncio.timeout(SAY):
                line = await reader.readline()
        except TimeoutError:
            return protocol.denial("BadRequest", f"no line within {SAY:.0f} seconds")
        except ValueError:
            return protocol.denial("BadRequest", f"a line has at most {protocol.LINE} bytes")
        if not line:
            return b""
        try:
            if not line.endswith(b"\n"):
                raise BadRequest("the line does not end")
            request = protocol.parse(line)
        except UnsupportedVersion as error:
            return protocol.denial("UnsupportedVersion", str(error))
        except BadRequest as error:
            return protocol.denial("BadRequest", str(error))
        match request:
            case ClaimRequest():
                return await self._claim(request, reader)
            case ReleaseRequest():
                return self._release(request.claim)
            case _:
                return protocol.answer()

    async def _claim(self, request: ClaimRequest, reader: asyncio.StreamReader) -> bytes:
        if self._waiting >= self._most:
            return protocol.denial("TooManyRequests", f"{self._most} pods wait; come again")
        self._waiting += 1
        try:
            return await self._wait(request, reader)
        finally:
            self._waiting -= 1

    async def _wait(self, request: ClaimRequest, reader: asyncio.StreamReader) -> bytes:
        pod = f"{request.claim.namespace}/{request.claim.name}"
        begun = time.monotonic()
        rules = asyncio.ensure_future(self._programmed(request.claim))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait(
                (rules, gone), timeout=request.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            milliseconds = (time.monotonic() - begun) * 1000
            if rules.done():
                await rules
                log.info("a pod may start", pod=pod, milliseconds=round(milliseconds, 1))
                return protocol.answer(milliseconds=milliseconds)
            if not gone.done():
                log.warning("a pod waited in vain", pod=pod, seconds=request.timeout)
                message = f"{pod}: not programmed within {request.timeout:g} seconds"
                return protocol.denial("Timeout", message)
            if gone.exception() is None and gone.result():
                return protocol.denial("BadRequest", "one connection is for one line")
            return b""
        except Refused as error:
            log.warning("a pod is refused", pod=pod, reason=str(error))
            return protocol.denial("Refused", str(error))
        except Exception as error:
            log.exception("a pod could not be waited for", pod=pod)
            return protocol.denial("InternalError", f"{pod}: {type(error).__name__}")
        finally:
            for task in (rules, gone):
                task.cancel()
            await asyncio.gather(rules, gone, return_exceptions=True)

    def _release(self, claim: Claim) -> bytes:
        try:
            self._released(claim)
        except Exception as error:
            pod = f"{claim.namespace}/{claim.name}"
            log.exception("a pod's addresses could not be released", pod=pod)
            return protocol.denial("InternalError", f"{pod}: {type(error).__name__}")
        return protocol.answer()


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket that only our own user reaches, from its first moment; removed at the end."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    _check_unused(path)
    # It appears under its name with its mode set, in the place of one that was left behind.
    private = path.with_name(f".{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        private.unlink(missing_ok=True)
        try:
            listener.bind(str(private))
            private.chmod(0o600)
            listener.listen()
            listener.setblocking(False)
            private.rename(path)
        finally:
            private.unlink(missing_ok=True)
        ours = _identity(path)
        try:
            yield listener
        finally:
            if _identity(path) == ours:
                path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None


def _check_unused(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "is there, and is no socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue is an answer as well: someone is there
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another process answers there", str(path))
