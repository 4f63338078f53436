"""Frames with a VLAN tag from pods at a bridge: no policy judges them, so no bridge gets them.

br_netfilter hands over no tagged frame, or none with two tags where it is told to, and a receiver
takes off a tag with the number 0 (a priority tag) as if it had never been there. So what a pod may
not say plainly it could say with a tag: it needs no more than CAP_NET_RAW, which Kubernetes gives
by default.

Who calls `keep` has one table of the family bridge set, from the first port of a pod on:

    table bridge netpol {
      set ports { type iface_index; }
      chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        ether type { 8021q, 8021ad, 0x9100 } iif @ports drop
      }
    }

The set has the ports that lead to pods, of bridges that do not filter VLANs (`devices.pod_ports`).
Like the table of the policies it is owned where the kernel can do that, and outlives the process.
"""

import errno
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

from enforcer.host import devices
from enforcer.host.finding import Finding, Severity
from enforcer.host.links import Links
from enforcer.host.netlink import NETFILTER, Message, Netlink
from enforcer.nft import batch, wire
from enforcer.ruleset import OURS

__all__ = ["TABLE", "Kept", "Tags", "remove"]

TABLE = "netpol"
COMMENT = f"{OURS} tags=1"

_CHAIN, _PORTS, _TAGGED = "prerouting", "ports", "__set%d"
_FAMILY = 7  # NFPROTO_BRIDGE
_PREROUTING, _PRIORITY = 0, -300  # before anything of others looks at a frame
_TYPES = (0x8100, 0x88A8, 0x9100)  # the last one is what QinQ had before 802.1ad
_ANONYMOUS, _CONSTANT = 0x1, 0x2
_INDEX, _ETHER_TYPE = 20, 10  # nft's numbers of what a set holds
_LINK_HEADER, _TYPE_AT = 0, 12  # where a frame says its type; also if the device took the tag off
_IIF, _DROP = 4, 0
_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)  # tells nft how to show the keys of a set
_MANY = 1000  # elements of one message: an attribute ends at 64 KiB
_UNOWNABLE = (errno.EOPNOTSUPP, errno.EINVAL)  # before Linux 6.9

# The table without the elements of its set, as the kernel shows it.
Image = tuple[bytes, ...]


class Kept(NamedTuple):
    """`mended`: another process had changed the table, and it is as it should be again."""

    findings: list[Finding]
    mended: bool


class Tags:
    """To be called in a thread that is in the namespace that is filtered. `OSError`."""

    def __init__(self, *, owned: bool = True) -> None:
        self._owned = owned
        self._links: Links | None = None
        self._nft: Netlink | None = None
        self._held: frozenset[int] | None = None  # None where it is not known what there is
        self._image: Image = ()

    def open(self) -> None:
        """Hear of links from now on."""
        if self._links is None:
            self._links = Links()
        if self._nft is None:
            self._nft = Netlink(NETFILTER)

    def fileno(self) -> int:
        """Readable when links have changed: time for `keep`."""
        assert self._links is not None
        return self._links.fileno()

    def keep(self, *, whole: bool) -> Kept:
        """Make the set what it has to be; `whole`: read everything again.

        What the kernel refuses is a finding for each bridge.
        """
        assert self._links is not None
        self._links.follow(whole=whole)
        ports = devices.pod_ports(self._links.known)
        wanted: frozenset[int] = frozenset().union(*ports.values())
        try:
            return Kept([], self._set(wanted, whole=whole))
        except OSError as error:
            self._held = None
            return Kept([_finding(name, error) for name in sorted(ports)], False)

    def remove(self) -> None:
        """Let all frames pass, whoever set the table; `open` need not have been called."""
        if self._nft is None:
            self._nft = Netlink(NETFILTER)
        _remove(self._nft)
        self._held, self._image = None, ()

    def close(self) -> None:
        """What is set stays."""
        if self._links is not None:
            self._links.close()
        if self._nft is not None:
            self._nft.close()

    def _set(self, wanted: frozenset[int], *, whole: bool) -> bool:
        """Whether somebody had changed the table."""
        nft = self._nft
        assert nft is not None
        known = self._held is not None
        if self._held is None or (whole and self._image and not self._intact(nft, self._held)):
            self._make(nft, wanted)
            return known
        if wanted == self._held:
            return False
        if not self._image:
            self._make(nft, wanted)
            return False
        try:
            nft.commit(list(_changed(self._held, wanted)))
            self._held = wanted
        except OSError:
            self._make(nft, wanted)
            return True
        return False

    def _make(self, nft: Netlink, wanted: frozenset[int]) -> None:
        """The whole table anew, in one transaction; none where there is no port and never was."""
        self._held = None
        found = _found(nft)
        before = [] if found is None else [_gone()]
        if found is not None and not found.comment.startswith(OURS):
            raise OSError(errno.EEXIST, f"there is a table bridge {TABLE} of another program")
        if before or wanted:
            try:
                nft.commit([*before, *_table(wanted, owned=self._owned)])
            except OSError as error:
                if not self._owned or error.errno not in _UNOWNABLE:
                    raise
                nft.commit([*before, *_table(wanted, owned=False)])
                self._owned = False
            self._image = _image(nft)
        self._held = wanted

    def _intact(self, nft: Netlink, held: Collection[int]) -> bool:
        try:
            return _image(nft) == self._image and _elements(nft) == held
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False


def remove() -> None:
    """Of a process that is gone; `OSError` where it is not. In a thread in the namespace."""
    with closing(Netlink(NETFILTER)) as nft:
        _remove(nft)


def _remove(nft: Netlink) -> None:
    found = _found(nft)
    if found is not None and found.comment.startswith(OURS):
        nft.commit([_gone()])


class _Found(NamedTuple):
    comment: str
    body: bytes


def _found(nft: Netlink) -> _Found | None:
    for body in _dump(nft, batch.GETTABLE):
        parts = wire.attributes(body)
        if wire.string(parts.get(1, b"")) == TABLE:
            return _Found(batch.comment(parts), body)
    return None


def _image(nft: Netlink) -> Image:
    table = _found(nft)
    named = wire.text(1, TABLE)
    chains = [body for body in _dump(nft, batch.GETCHAIN) if body.startswith(named)]
    rules = list(_dump(nft, batch.GETRULE, named))
    return (b"" if table is None else table.body, *chains, *rules)


def _elements(nft: Netlink) -> frozenset[int]:
    asked = wire.text(1, TABLE) + wire.text(2, _PORTS)
    found = set()
    for body in _dump(nft, batch.GETELEMENT, asked):
        for _, item in wire.listed(wire.attributes(body).get(3, b"")):
            key = wire.attributes(wire.attributes(item).get(1, b"")).get(1, bytes(4))
            found.add(struct.unpack("=I", key)[0])
    return frozenset(found)


def _dump(nft: Netlink, kind: int, asked: bytes = b"") -> Iterator[bytes]:
    """The attributes of each; the header in front has the generation of the ruleset in it."""
    for body in nft.dump(batch.SUBSYSTEM << 8 | kind, batch.header(_FAMILY) + asked):
        yield body[4:]


def _message(kind: int, flags: int, *attributes: bytes) -> Message:
    body = batch.header(_FAMILY) + b"".join(attributes)
    return Message(batch.SUBSYSTEM << 8 | kind, flags, body)


def _gone() -> Message:
    return _message(batch.DELTABLE, 0, wire.text(1, TABLE))


def _table(ports: Collection[int], *, owned: bool) -> Iterator[Message]:
    yield _message(
        batch.NEWTABLE,
        wire.CREATE,
        wire.text(1, TABLE),
        wire.number(2, batch.OWNER | batch.PERSIST if owned else 0),
        batch.commented(COMMENT),
    )
    yield from _declared(_PORTS, 1, 0, _INDEX, 4, wire.attribute(13, _HOST_ORDER))
    yield from _changed((), ports)
    hook = wire.number(1, _PREROUTING) + wire.attribute(2, struct.pack("!i", _PRIORITY))
    yield _message(
        batch.NEWCHAIN,
        wire.CREATE,
        *(wire.text(1, TABLE), wire.text(3, _CHAIN), wire.nested(4, hook)),
        *(wire.number(5, 1), wire.text(7, "filter")),  # accept
    )
    yield from _declared(_TAGGED, 2, _ANONYMOUS | _CONSTANT, _ETHER_TYPE, 2)
    types = [struct.pack("!H", number) for number in _TYPES]
    yield _message(batch.NEWELEMENT, wire.CREATE, *_of(_TAGGED, types), wire.number(4, 2))
    yield _message(
        batch.NEWRULE,
        wire.CREATE | wire.APPEND,
        *(wire.text(1, TABLE), wire.text(2, _CHAIN), wire.nested(4, *_rule())),
    )


def _rule() -> Iterator[bytes]:
    """The type of the frame first: most have none of these, and for them nothing else is done."""
    load = wire.number(1, 1), wire.number(2, _LINK_HEADER), wire.number(3, _TYPE_AT)
    yield _expression("payload", *load, wire.number(4, 2))
    yield _expression("lookup", wire.text(1, _TAGGED), wire.number(2, 1), wire.number(4, 2))
    yield _expression("meta", wire.number(2, _IIF), wire.number(1, 1))
    yield _expression("lookup", wire.text(1, _PORTS), wire.number(2, 1), wire.number(4, 1))
    verdict = wire.nested(2, wire.nested(2, wire.number(1, _DROP)))
    yield _expression("immediate", wire.number(1, 0), verdict)


def _expression(name: str, *data: bytes) -> bytes:
    return wire.nested(1, wire.text(1, name), wire.nested(2, *data))


def _declared(
    name: str, number: int, flags: int, key: int, length: int, more: bytes = b""
) -> Iterator[Message]:
    yield _message(
        batch.NEWSET,
        wire.CREATE,
        *(wire.text(1, TABLE), wire.text(2, name), wire.number(3, flags)),
        *(wire.number(4, key), wire.number(5, length), wire.number(10, number)),
        more,
    )


def _changed(before: Collection[int], after: Collection[int]) -> Iterator[Message]:
    kinds: Mapping[int, list[int]] = {
        batch.DELELEMENT: sorted(set(before) - set(after)),
        batch.NEWELEMENT: sorted(set(after) - set(before)),
    }
    for kind, indexes in kinds.items():
        flags = wire.CREATE if kind == batch.NEWELEMENT else 0
        for first in range(0, len(indexes), _MANY):
            keys = [struct.pack("=I", index) for index in indexes[first : first + _MANY]]
            yield _message(kind, flags, *_of(_PORTS, keys))


def _of(name: str, keys: Collection[bytes]) -> tuple[bytes, ...]:
    listed = (wire.nested(1, wire.nested(1, wire.attribute(1, key))) for key in keys)
    return wire.text(1, TABLE), wire.text(2, name), wire.nested(3, *listed)


def _finding(bridge: str, error: OSError) -> Finding:
    why = error.strerror or os.strerror(error.errno or 0)
    text = (
        "pods of this bridge reach each other by frames with a VLAN tag, which no policy judges:"
        f" table bridge {TABLE} against them cannot be set ({why}); see nft list tables bridge, or"
        " take NET_RAW from the capabilities of pods"
    )
    return Finding("bridge-tags", f"bridge {bridge}", text, Severity.BYPASSED)
