"""The canary's two namespaces, and what joins them to the filtered one. For `canary` alone.

Everything happens in one thread, which ends up in the source's namespace: a socket belongs to the
namespace that its thread was in when it was made, and each probe needs new ones.
"""

import ctypes
import errno
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from enforcer.host import rtnetlink
from enforcer.host.netlink import ROUTE, Netlink
from enforcer.nft import wire

CLONE_NEWNET = 0x40000000
NAMED = Path("/run/netns")
DEVICES = ("netpolc0", "netpolc1")  # in the filtered namespace: to the source, to the target
INSIDE = "eth0"
# Locally administered, "npc" in ASCII. Given, so that udev does not set others.
MACS = {device: b"\x02npc\0" + bytes([number]) for number, device in enumerate(DEVICES)}
MACS_INSIDE = {device: b"\x02npc\1" + bytes([number]) for number, device in enumerate(DEVICES)}
PORTS = range(1024, 65_536)
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
SETTLING = 5.0  # seconds for the kernel to do what it does later; some milliseconds as a rule
REFUSED = (errno.EPERM, errno.EACCES)
SYSCTL = Path("/proc/sys/net")  # of the namespace of the thread that reads


class Unavailable(Exception):
    """This host lets no canary live, or no longer; the text says why, and what to change."""


@dataclass(frozen=True, slots=True)
class Way:
    """From the source to the target in one family, 4 or 6, with the target's open sockets."""

    family: int
    source: str
    target: str
    allowed: socket.socket
    denied: socket.socket


class Pair:
    """For one thread, of which nothing else depends on the namespace that it is in.

    `source` and `target` are an IPv4 and an IPv6 address each; `netns` is that of `Canary`.
    """

    def __init__(
        self,
        *,
        netns: str,
        source: tuple[str, str],
        target: tuple[str, str],
        allowed: int,
        denied: int,
    ) -> None:
        self._netns = netns
        self._source = dict(zip(FAMILIES, source, strict=True))
        self._target = dict(zip(FAMILIES, target, strict=True))
        self._ports = denied, allowed  # in the order of sending
        self._held = ExitStack()
        self._ways: tuple[Way, ...] = ()
        self._mark = secrets.token_bytes(8)
        self._probes = secrets.randbelow(len(PORTS))

    def open(self) -> None:
        """`Unavailable`; nothing is left behind then."""
        with ExitStack() as held:
            try:
                self._ways = self._build(held)
            except OSError as error:
                need = "; it needs CAP_SYS_ADMIN" if error.errno in REFUSED else ""
                raise Unavailable(f"{error.strerror or error}{need}") from error
            self._held = held.pop_all()

    def close(self) -> None:
        self._ways = ()
        self._held.close()

    def probe(self, patience: float) -> dict[int, tuple[bool, bool]]:
        """Whether what is allowed and what is denied arrived, by family.

        The denied datagram is sent first, and one way keeps the order, so once the allowed one is
        there, or `patience` seconds are over, the other does not come. If it does come late, the
        next probe counts it. `Unavailable` where the pair is broken.
        """
        if not self._ways:
            raise Unavailable("it is not there")
        self._probes += 1
        datagram = self._mark + self._probes.to_bytes(8, "big")
        try:
            for way in self._ways:
                self._send(way, datagram)
        except OSError as error:
            raise Unavailable(f"its devices were removed or changed: {error.strerror}") from error
        arrived = self._await(datagram, time.monotonic() + patience)
        return {
            way.family: (
                way.family in arrived,
                any(found.startswith(self._mark) for found in _received(way.denied)),
            )
            for way in self._ways
        }

    def _send(self, way: Way, datagram: bytes) -> None:
        """From a port that is new to conntrack, so that no entry of before answers for it."""
        with socket.socket(FAMILIES[way.family], socket.SOCK_DGRAM) as sender:
            sender.bind((way.source, PORTS[self._probes % len(PORTS)]))
            for port in self._ports:
                sender.sendto(datagram, (way.target, port))

    def _await(self, datagram: bytes, deadline: float) -> set[int]:
        """The families in which it came to the allowed port, all of them or at the deadline."""
        waiting = {way.allowed.fileno(): way for way in self._ways}
        poll = select.poll()
        for number in waiting:
            poll.register(number, select.POLLIN)
        arrived: set[int] = set()
        while len(arrived) < len(waiting) and (left := deadline - time.monotonic()) > 0:
            for number, _ in poll.poll(left * 1000):
                if datagram in _received(waiting[number].allowed):
                    arrived.add(waiting[number].family)
        return arrived

    def _build(self, held: ExitStack) -> tuple[Way, ...]:
        host = self._filtered(held)
        _enter(host)
        held.callback(_enter, host)
        families = _forwarded()
        source, target = _namespace(held), _namespace(held)
        _enter(host)
        links = _netlink(held)
        _remove(links)
        held.callback(_remove, links)
        for device, inside in zip(DEVICES, (source, target), strict=True):
            _join(links, device, inside, families)
        _enter(target)
        _settle(held, DEVICES[1], self._target, self._source, families)
        ways = tuple(self._listen(held, family) for family in families)
        _enter(source)
        _settle(held, DEVICES[0], self._source, self._target, families)
        for device, owned in zip(DEVICES, (self._source, self._target), strict=True):
            _lead(links, device, [owned[family] for family in families])
        return ways

    def _filtered(self, held: ExitStack) -> int:
        path: Path | str = "/proc/self/ns/net"
        if self._netns:
            path = self._netns if "/" in self._netns else NAMED / self._netns
        return _descriptor(held, path)

    def _listen(self, held: ExitStack, family: int) -> Way:
        sockets = []
        for port in self._ports:
            listener = held.enter_context(socket.socket(FAMILIES[family], socket.SOCK_DGRAM))
            listener.setblocking(False)
            listener.bind((self._target[family], port))
            sockets.append(listener)
        denied, allowed = sockets
        return Way(family, self._source[family], self._target[family], allowed, denied)


def _forwarded() -> tuple[int, ...]:
    """The families that pods of this host can reach each other in; `Unavailable` for none."""
    found = []
    if _sysctl("ipv4/ip_forward"):
        found.append(4)
    if _sysctl("ipv6/conf/all/forwarding") and not _sysctl("ipv6/conf/default/disable_ipv6"):
        found.append(6)
    if not found:
        raise Unavailable(
            "net.ipv4.ip_forward and net.ipv6.conf.all.forwarding are 0: this host forwards nothing"
            " between pods; sysctl -w net.ipv4.ip_forward=1"
        )
    return tuple(found)


def _join(links: Netlink, device: str, inside: int, families: Iterable[int]) -> None:
    """A veth from the filtered namespace into that of a pod."""
    made = rtnetlink.veth(
        device, MACS[device], peer=INSIDE, peer_mac=MACS_INSIDE[device], netns=inside
    )
    links.run(rtnetlink.NEWLINK, made, wire.CREATE | wire.EXCLUSIVE)
    _start(links, device, families)


def _settle(
    held: ExitStack,
    device: str,
    own: dict[int, str],
    other: dict[int, str],
    families: Iterable[int],
) -> None:
    """Address and way out of the pod whose namespace this thread is in."""
    links = _netlink(held)
    _start(links, INSIDE, families)
    index = _ready(links, INSIDE)
    for family in families:
        links.run(rtnetlink.NEWADDR, rtnetlink.address(index, own[family]), wire.CREATE)
        links.run(rtnetlink.NEWROUTE, rtnetlink.route(index, EVERYWHERE[family]), wire.CREATE)
        there = rtnetlink.neighbour(index, other[family], MACS[device])
        links.run(rtnetlink.NEWNEIGH, there, wire.CREATE)
    for family in families:
        # An IPv6 address counts from a work queue on.
        _wait(partial(_is_there, links, own[family]), f"the address {own[family]}")


def _lead(links: Netlink, device: str, addresses: Iterable[str]) -> None:
    """The way from the filtered namespace to a pod."""
    index = _ready(links, device)
    for address in addresses:
        links.run(rtnetlink.NEWROUTE, rtnetlink.route(index, address), wire.CREATE)
        there = rtnetlink.neighbour(index, address, MACS_INSIDE[device])
        links.run(rtnetlink.NEWNEIGH, there, wire.CREATE)


def _start(links: Netlink, device: str, families: Iterable[int]) -> None:
    index = _found(links, device).index
    links.run(rtnetlink.NEWLINK, rtnetlink.quiet(index, families))
    links.run(rtnetlink.NEWLINK, rtnetlink.up(index))


def _ready(links: Netlink, device: str) -> int:
    """The index, once the device sends; what it should send before is dropped."""
    # The kernel looks at carriers every now and then, after a second at most.
    _wait(lambda: _found(links, device).ready, f"a carrier of {device}")
    return _found(links, device).index


def _is_there(links: Netlink, address: str) -> bool:
    return rtnetlink.ends_here(links.get(rtnetlink.GETROUTE, rtnetlink.way(address)))


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLING
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not come within {SETTLING:.0f} s")
        time.sleep(0.002)


def _found(links: Netlink, device: str) -> rtnetlink.Link:
    return rtnetlink.link(links.get(rtnetlink.GETLINK, rtnetlink.named(device)))


def _remove(links: Netlink) -> None:
    """Also what a process left that died a moment ago. `Unavailable` for devices of others."""
    for device in DEVICES:
        try:
            if _found(links, device).kind != "veth":
                raise Unavailable(f"there is a device {device} of another kind; rename it")
            links.run(rtnetlink.DELLINK, rtnetlink.named(device))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def _namespace(held: ExitStack) -> int:
    """A new network namespace; this thread is in it."""
    _call("unshare", CLONE_NEWNET)
    return _descriptor(held, "/proc/thread-self/ns/net")


def _enter(namespace: int) -> None:
    _call("setns", namespace, CLONE_NEWNET)


def _call(function: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _descriptor(held: ExitStack, path: Path | str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    held.callback(os.close, descriptor)
    return descriptor


def _netlink(held: ExitStack) -> Netlink:
    links = Netlink(ROUTE)
    held.callback(links.close)
    return links


def _sysctl(name: str) -> bool:
    """Whether it is on; one that this kernel does not have is off."""
    try:
        return (SYSCTL / name).read_text().strip() != "0"
    except FileNotFoundError:
        return False


def _received(listener: socket.socket) -> list[bytes]:
    """Everything that has come; nothing is left."""
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(listener.recv(64))
    return found
