"""The netlink sockets of another process, to spoil them as a machine in trouble would."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_GETFD = 438  # pidfd_getfd(2)
_NETFILTER = 12
_SOL_NETLINK, _DROP_MEMBERSHIP, _LIST_MEMBERSHIPS = 270, 2, 9
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def netfilter_sockets(pid: int) -> Iterator[list[socket.socket]]:
    """Those to the packet filter: the process and we have them both."""
    handle = os.pidfd_open(pid)
    found = []
    try:
        for entry in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda item: int(item.name)):
            with suppress(OSError):
                if not os.readlink(entry).startswith("socket:"):
                    continue
                number = _LIBC.syscall(_GETFD, handle, int(entry.name), 0)
                if number < 0:
                    raise OSError(ctypes.get_errno(), "pidfd_getfd")
                made = socket.socket(fileno=number)
                if (made.family, made.proto) == (socket.AF_NETLINK, _NETFILTER):
                    found.append(made)
                else:
                    made.close()
        yield found
    finally:
        for made in found:
            made.close()
        os.close(handle)


def leave_group(made: socket.socket, group: int) -> bool:
    """Hear nothing more of a multicast group; whether it did."""
    groups = int.from_bytes(made.getsockopt(_SOL_NETLINK, _LIST_MEMBERSHIPS, 8), "little")
    if not groups >> (group - 1) & 1:
        return False
    made.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)
    return True
