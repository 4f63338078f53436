"""The devices of a network namespace, kept up to date by the kernel's announcements.

For `tags`: between a pod's port and the next look at everything there are seconds, between the port
and its announcement microseconds.
"""

import errno
import socket

from enforcer.host import rtnetlink
from enforcer.host.netlink import ROUTE, Netlink
from enforcer.nft import wire

_GROUP = 1  # RTNLGRP_LINK
_BUFFER = 1 << 20  # bytes; some hundred announcements
_LONGEST = 1 << 16


class Links:
    """Of the namespace of the thread that makes it; `follow` has to be called before `known`."""

    def __init__(self) -> None:
        self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, ROUTE)
        self._route = Netlink(ROUTE)
        self._news.bind((0, 1 << (_GROUP - 1)))
        self._news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._news.setblocking(False)
        self._links: dict[int, rtnetlink.Link] = {}

    @property
    def known(self) -> list[rtnetlink.Link]:
        return list(self._links.values())

    def fileno(self) -> int:
        """Readable when there is something to follow."""
        return self._news.fileno()

    def follow(self, *, whole: bool) -> None:
        """Take what was announced; `whole`: ask for all devices, as when announcements were lost.

        Each one tells all of a device, so one that is older than the answer harms only until the
        next of that device, which is there too.
        """
        whole = not self._heard() or whole
        while whole:
            asked = self._route.dump(rtnetlink.GETLINK, rtnetlink.named(""))
            self._links = {link.index: link for link in map(rtnetlink.link, asked)}
            whole = not self._heard()

    def close(self) -> None:
        self._news.close()
        self._route.close()

    def _heard(self) -> bool:
        """False where that is not everything."""
        complete = True
        while True:
            try:
                data = self._news.recv(_LONGEST)
            except BlockingIOError:
                return complete
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                complete = False
                continue
            for item in wire.messages(data):
                complete = self._take(item) and complete

    def _take(self, item: wire.Message) -> bool:
        """False where it may concern another device of which nothing is announced."""
        # A bridge tells of its ports too, in its own family and not everything.
        if item.body[:1] != bytes((socket.AF_UNSPEC,)):
            return True
        if item.kind == rtnetlink.NEWLINK:
            link = rtnetlink.link(item.body)
            self._links[link.index] = link
        elif item.kind == rtnetlink.DELLINK:
            gone = self._links.pop(rtnetlink.link(item.body).index, None)
            # It may have moved to another namespace: then the end that stays leads there.
            return gone is None or gone.away
        return True
