"""Connect from inside a network namespace, without a process there: servers bind loopback only."""

import asyncio
import ctypes
import os
import socket
from pathlib import Path

CLONE_NEWNET = 0x40000000
NAMED = Path("/run/netns")  # where `ip netns` keeps them


async def dial(address: tuple[str, int], netns: str = "") -> socket.socket:
    """A connected TCP socket. A socket stays in the namespace in which it was made."""
    sock = _socket(netns) if netns else socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(netns: str) -> socket.socket:
    """Only this thread goes there, and it comes back before anything else runs in it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(NAMED / netns)
        try:
            return socket.socket()
        finally:
            _set(home)
    finally:
        os.close(home)


def _enter(path: Path) -> None:
    there = os.open(path, os.O_RDONLY)
    try:
        _set(there)
    finally:
        os.close(there)


def _set(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
