"""The border to the kernel: one netlink socket, in the network namespace that is filtered.

The only module that opens it. A thread of its own lives in the namespace, so the API connection
stays in the process's own. Each change is one transaction: it takes effect as a whole or not at
all.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from enforcer.diff import Held, Incompatible
from enforcer.nft import batch, dump, wire
from enforcer.nft.batch import Part
from enforcer.ruleset import Change, NftSet

NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_NETFILTER = 12  # NETLINK_NETFILTER
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33
_BUFFER = 4 << 20  # bytes; what a dump or the answers to a batch may take
_DUMP_INTERRUPTED = 0x10
_ASKINGS = 50
_LAST_NUMBER = 0x7FFFFFFF

P = ParamSpec("P")
T = TypeVar("T")


class KernelError(Exception):
    """The kernel refused a transaction; nothing of it took effect.

    `code` is its errno, `about` the object that it refused.
    """

    def __init__(self, text: str, code: int = 0, about: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.about = about


class Kernel:
    """`netns` is a name of `ip netns`, a path, or empty for the process's own namespace.

    `private` makes a new namespace, which goes with the object: for trying a ruleset out. `owned`:
    new tables are this process's own where the kernel can do that (Linux 6.9).
    """

    def __init__(self, *, netns: str = "", private: bool = False, owned: bool = True) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._netns = netns
        self._private = private
        self.owned = owned

    async def inside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the thread that is inside the namespace. `KernelError`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: (self._open(), function(*args, **kwargs))[1]
        )

    async def tables(self) -> list[dump.Table]:
        return await self.inside(dump.tables, self._ask)

    async def held(self, table: str) -> Held:
        """A table's content. `KernelError` where it changes all the time, `Incompatible`."""
        try:
            return await self.inside(self._held, table)
        except dump.Unsettled as error:
            raise KernelError(str(error), errno.EAGAIN) from None

    async def counters(self, table: str) -> dict[str, int]:
        return await self.inside(dump.counters, self._ask, table)

    async def counted(self, table: str, name: str, set_type: str) -> list[dump.Flow]:
        return await self.inside(lambda: list(dump.flows(self._ask, table, name, set_type)))

    async def create(self, table: str, change: Change) -> None:
        """Make a table with its content. The last transaction of several makes it effective."""
        await self.inside(self._create, table, change)

    async def take(self, table: str) -> None:
        """Become the owner of a table that has lost its own."""
        await self.inside(self._send, [batch.table(table, batch.OWNER | batch.PERSIST)])

    async def commit(self, table: str, change: Change, kinds: Mapping[str, NftSet]) -> None:
        """`kinds` has the sets whose elements change. `KernelError` with what was refused."""
        await self.inside(self._commit, batch.parts(table, change, kinds))

    async def delete(self, table: str) -> None:
        await self.inside(self._send, [batch.gone_table(table)])

    async def generation(self) -> int:
        """A number that every commit of anybody in the namespace changes."""
        return await self.inside(self._generation)

    @property
    def port(self) -> int:
        """The number of our socket, which the kernel gives with what we cause."""
        assert self._socket is not None
        number: int = self._socket.getsockname()[0]
        return number

    def close(self) -> None:
        """End the thread; the tables stay."""
        self._thread.shutdown()
        if self._socket is not None:
            self._socket.close()

    def _held(self, table: str) -> Held:
        try:
            return dump.held(self._ask, table)
        except (LookupError, ValueError, struct.error) as error:
            raise Incompatible(f"table {table} holds what we never put there: {error!r}") from error

    def _create(self, table: str, change: Change) -> None:
        flags = batch.OWNER | batch.PERSIST if self.owned else 0
        transactions = list(batch.parts(table, change, change.sets))
        transactions[0].insert(0, batch.table(table, flags))
        try:
            self._send(transactions[0])
        except KernelError as error:
            old = error.about == f"table {table}" and error.code in (
                errno.EOPNOTSUPP,
                errno.EINVAL,
            )
            if not flags or not old:
                raise
            self.owned = False
            transactions[0][0] = batch.table(table, 0)
            self._send(transactions[0])
        self._commit(iter(transactions[1:]))

    def _commit(self, transactions: Iterator[list[Part]]) -> None:
        for listed in transactions:
            self._send(listed)

    def _send(self, listed: Sequence[Part]) -> None:
        first = self._numbers(len(listed))
        last, refused = first + len(listed) - 1, None
        for answer in self._answers(batch.encode(listed, first)):
            if answer.kind != wire.ERROR or not first <= answer.sequence <= last:
                continue
            code = -struct.unpack_from("=i", answer.body)[0]
            if code and refused is None:
                about = listed[answer.sequence - first].about
                refused = KernelError(f"{about}: {os.strerror(code)}", code, about)
            if answer.sequence == last:
                if refused is None:
                    return
                break
        raise refused or KernelError("netlink: no answer", errno.EAGAIN)

    def _ask(self, kind: int, body: bytes) -> list[bytes]:
        """A dump. `KernelError` where it cannot be had whole.

        A commit of anybody to any table interrupts one that takes several readings. Lists of
        objects are asked for again then; elements of our sets nobody else changes.
        """
        for _ in range(_ASKINGS):
            found, whole = self._once(kind, body)
            if whole or kind == batch.GETELEMENT:
                return found
        raise KernelError("the ruleset changes too fast to be read", errno.EINTR)

    def _once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        number, found, whole = self._numbers(1), [], True
        flags = wire.REQUEST | wire.DUMP
        request = wire.message(batch.SUBSYSTEM << 8 | kind, flags, number, batch.header() + body)
        for answer in self._answers(request):
            if answer.sequence != number:
                continue
            whole = whole and not answer.flags & _DUMP_INTERRUPTED
            if answer.kind not in (wire.DONE, wire.ERROR):
                found.append(answer.body[4:])
                continue
            code = -struct.unpack_from("=i", answer.body)[0] if len(answer.body) >= 4 else 0
            if code:
                raise KernelError(f"reading the ruleset: {os.strerror(code)}", code)
            return found, whole
        raise KernelError("reading the ruleset: no end", errno.EAGAIN)

    def _generation(self) -> int:
        number = self._numbers(1)
        kind = batch.SUBSYSTEM << 8 | batch.GETGEN
        for answer in self._answers(wire.message(kind, wire.REQUEST, number, batch.header(0))):
            if answer.sequence == number and answer.kind != wire.ERROR:
                return int.from_bytes(wire.attributes(answer.body[4:]).get(1, b""), "big")
        raise KernelError("no generation was told")

    def _numbers(self, how_many: int) -> int:
        """The first of so many sequence numbers in a row."""
        if self._sequence + how_many > _LAST_NUMBER:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += how_many
        return first

    def _answers(self, request: bytes) -> Iterator[wire.Message]:
        """Send, and what the kernel says to it. `KernelError`.

        It answers while it is asked, so there is nothing to be waited for.
        """
        sock = self._open()
        try:
            if len(request) > _BUFFER // 2:
                _buffer(sock, _SNDBUFFORCE, 2 * len(request))
            sock.send(request)
            while True:
                yield from wire.messages(sock.recv(1 << 20, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return
        except OSError as error:
            raise KernelError(f"netlink: {error.strerror or error}", error.errno or 0) from None

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._enter()
            try:
                made = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER
                )
                made.bind((0, 0))
                for option in (_SNDBUFFORCE, _RCVBUFFORCE):
                    _buffer(made, option, _BUFFER)
            except OSError as error:
                raise KernelError(f"netlink: {error.strerror}", error.errno or 0) from None
            self._socket = made
        return self._socket

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if self._private:
            if libc.unshare(_CLONE_NEWNET):
                raise KernelError(f"no private namespace: {os.strerror(ctypes.get_errno())}")
        elif self._netns:
            path = self._netns if "/" in self._netns else NAMED / self._netns
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise KernelError(f"network namespace {self._netns}: {error}") from error
            try:
                if libc.setns(handle, _CLONE_NEWNET):
                    why = os.strerror(ctypes.get_errno())
                    raise KernelError(f"network namespace {self._netns}: {why}")
            finally:
                os.close(handle)


def _buffer(sock: socket.socket, option: int, size: int) -> None:
    """More than the machine's limit, where we may."""
    plain = socket.SO_SNDBUF if option == _SNDBUFFORCE else socket.SO_RCVBUF
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    except PermissionError:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, plain, size)
