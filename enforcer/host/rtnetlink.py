"""rtnetlink's messages: what makes a veth and gives it an address, and what reads links. Pure.

The formats are those of <linux/if_link.h>, <linux/if_addr.h>, <linux/rtnetlink.h> and
<linux/neighbour.h>: a fixed head, then attributes, with numbers in the host's own order.
"""

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from enforcer.nft.wire import attribute, attributes, nested, string, text

NEWLINK, DELLINK, GETLINK, NEWADDR, NEWROUTE, GETROUTE, NEWNEIGH = 16, 17, 18, 20, 24, 26, 28

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, flags to change
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths, TOS, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_AF_SPEC = 1, 3, 10, 18, 26
_IFLA_OPERSTATE, _OPERATIONAL = 16, b"\6"
_IFLA_NET_NS_FD, _IFLA_LINK_NETNSID, _IFLA_XDP = 28, 37, 43
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_UP, _NODAD, _PERMANENT = 0x1, 0x02, 0x80
_INET, _INET6 = 2, 10  # AF_INET, AF_INET6
_FAMILY = {4: _INET, 6: _INET6}
_MAIN, _STATIC, _LINK_SCOPE, _UNICAST, _LOCAL = 254, 4, 253, 1, 2


@dataclass(frozen=True, slots=True)
class Link:
    """A device. `master` is an index or 0; `data` are the attributes of its kind.

    `ready`: it has a carrier and sends; `away`: its other end is in another namespace; `xdp`: a
    program is attached.
    """

    index: int
    name: str
    kind: str
    master: int
    ready: bool
    away: bool
    xdp: bool
    data: dict[int, bytes]


def link(body: bytes) -> Link:
    """Read one answer to `GETLINK`."""
    index = _LINK.unpack_from(body)[2]
    found = attributes(body[_LINK.size :])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index,
        string(found.get(_IFLA_IFNAME, b"")),
        string(info.get(_INFO_KIND, b"")),
        int.from_bytes(found.get(_IFLA_MASTER, b"\0"), sys.byteorder),
        found.get(_IFLA_OPERSTATE) == _OPERATIONAL,
        _IFLA_LINK_NETNSID in found,
        any(attributes(found.get(_IFLA_XDP, b"")).get(2, b"\0")),
        attributes(info.get(_INFO_DATA, b"")),
    )


def named(name: str) -> bytes:
    """The link of that name; `named("")`: all links."""
    return _LINK.pack(0, 0, 0, 0, 0) + (text(_IFLA_IFNAME, name) if name else b"")


def veth(name: str, mac: bytes, *, peer: str, peer_mac: bytes, netns: int) -> bytes:
    """A new pair; the peer is made in the namespace of the descriptor."""
    other = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, peer)
    other += attribute(_IFLA_ADDRESS, peer_mac) + _u32(_IFLA_NET_NS_FD, netns)
    kind = text(_INFO_KIND, "veth")
    info = nested(_IFLA_LINKINFO, kind, nested(_INFO_DATA, attribute(_VETH_PEER, other)))
    return named(name) + attribute(_IFLA_ADDRESS, mac) + info


def quiet(index: int, families: Iterable[int]) -> bytes:
    """Forward what comes in, and make no link-local address, so that none is announced."""
    settings = {
        4: nested(_INET, nested(1, _u32(1, 1))),  # IFLA_INET_CONF: forwarding
        6: nested(_INET6, attribute(8, b"\1")),  # IFLA_INET6_ADDR_GEN_MODE: none
    }
    chosen = (settings[family] for family in families)
    return _LINK.pack(0, 0, index, 0, 0) + nested(_IFLA_AF_SPEC, *chosen)


def up(index: int) -> bytes:
    return _LINK.pack(0, 0, index, _UP, _UP)


def address(index: int, ip: str) -> bytes:
    """One address, usable at once: nobody else on the link could have it."""
    parsed = ip_address(ip)
    flags = _u32(8, _NODAD) if parsed.version == 6 else b""
    head = _ADDRESS.pack(_FAMILY[parsed.version], parsed.max_prefixlen, 0, 0, index)
    return head + attribute(2, parsed.packed) + attribute(1, parsed.packed) + flags


def route(index: int, network: str) -> bytes:
    """Straight through a device, without a gateway."""
    parsed = ip_network(network)
    scope = _LINK_SCOPE if parsed.version == 4 else 0
    head = _ROUTE.pack(
        _FAMILY[parsed.version], parsed.prefixlen, 0, 0, _MAIN, _STATIC, scope, _UNICAST, 0
    )
    return head + attribute(1, parsed.network_address.packed) + _u32(4, index)


def way(ip: str) -> bytes:
    """Which route packets to an address take."""
    parsed = ip_address(ip)
    head = _ROUTE.pack(_FAMILY[parsed.version], parsed.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return head + attribute(1, parsed.packed)


def ends_here(body: bytes) -> bool:
    """Whether an answer to `GETROUTE` leads into the namespace itself."""
    return bool(_ROUTE.unpack_from(body)[7] == _LOCAL)


def neighbour(index: int, ip: str, mac: bytes) -> bytes:
    """Where an address is, so that nobody has to be asked with ARP or NDP."""
    parsed = ip_address(ip)
    head = _NEIGHBOUR.pack(_FAMILY[parsed.version], index, _PERMANENT, 0, 0)
    return head + attribute(1, parsed.packed) + attribute(2, mac)


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))
