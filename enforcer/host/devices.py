"""What bridges, redirects and programs at devices do to packets before policies judge them. Pure.

A device leads to pods if its other end is in another network namespace, as that of a pod's veth is.
Packets that are forwarded between two of them pass the forward hook of IP, except where

- a bridge, or an Open vSwitch, joins them: frames between its ports are not IP's business, unless
  br_netfilter hands them over, by a setting of the namespace or of the bridge. It hands over none
  with a VLAN tag: on a bridge that filters VLANs each frame has one, on another one a pod may give
  it to its own, and `tags` drops them;
- tc redirects them (`mirred egress redirect`) to a device that leads to pods. A redirect to an
  `ifb` comes back to where it was, and one to a device's ingress passes the hook there;
- a BPF program at tc or XDP does. Whether it does cannot be seen, so that is a warning.

Not seen are programs at sockets, and pods whose devices have no end on the host: macvlan, ipvlan,
SR-IOV.
"""

import struct
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from enforcer.host.finding import Finding, Severity
from enforcer.host.rtnetlink import Link
from enforcer.nft.wire import attributes, listed, string

# Settings of br_netfilter, below net.bridge; read where br_netfilter is loaded.
CALLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
TAGGED = "bridge-nf-filter-vlan-tagged"

INGRESS, CLSACT = "ingress", "clsact"
_PARENTS = {INGRESS: (0xFFFFFFF2,), CLSACT: (0xFFFFFFF2, 0xFFFFFFF3)}
_CLASSFUL = ("drr", "ets", "hfsc", "htb", "multiq", "prio", "qfq", "sfq")

_BRIDGE_OPTIONS = dict(zip(CALLS, (36, 37), strict=True))  # IFLA_BR_NF_CALL_IP(6)TABLES
_VLAN_FILTERING = 7  # IFLA_BR_VLAN_FILTERING
_TC = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
# Where the classifiers have their actions: TCA_BPF_ACT and so on.
_ACTIONS = {"bpf": 1, "basic": 3, "cgroup": 1, "flow": 9, "flower": 3, "fw": 4, "matchall": 2}
_ACTIONS |= {"route": 6, "u32": 7}
_BPF_FLAGS, _DIRECT_ACTION = 8, 1
_MIRRED = struct.Struct("=20xiI")  # struct tc_mirred: what, and to which device
_REDIRECT, _MIRROR = 1, 2  # TCA_EGRESS_REDIR, TCA_EGRESS_MIRROR
_SHOWN = 3


class Qdisc(NamedTuple):
    """A queueing discipline that filters can hang on, and where they do."""

    device: int
    parents: tuple[int, ...]


class Redirect(NamedTuple):
    """What a filter does with packets of a device; a `target` of 0 may be any."""

    device: int
    kind: str
    target: int


def leads(link: Link | None, links: Iterable[Link]) -> bool:
    """Whether what is sent through a device may come to a pod; of one that is not known, yes."""
    if link is None or link.away:
        return True
    return link.kind == "bridge" and any(port.away and port.master == link.index for port in links)


def bridges(links: Collection[Link], settings: Mapping[str, bool] | None) -> list[Finding]:
    """Bridges with pods; `settings` are those of br_netfilter, None where it is not loaded."""
    found = []
    for link in links:
        if not any(port.away and port.master == link.index for port in links):
            continue
        if link.kind == "openvswitch":
            found.append(
                Finding(
                    "openvswitch",
                    f"switch {link.name}",
                    "Open vSwitch carries packets between pods past the packet filter, so no policy"
                    " judges them; use a network plugin that routes, or a Linux bridge",
                    Severity.BYPASSED,
                )
            )
        if link.kind == "bridge":
            found += _bridge(link, settings)
    return found


def pod_ports(links: Collection[Link]) -> dict[str, frozenset[int]]:
    """The ports that lead to pods, by index, of each bridge with pods that does not filter VLANs.

    One that does gives tags meaning, and `bridges` says what has to be set there.
    """
    ports: dict[int, set[int]] = {}
    for port in links:
        if port.away and port.master:
            ports.setdefault(port.master, set()).add(port.index)
    return {
        link.name: frozenset(ports[link.index])
        for link in links
        if link.kind == "bridge"
        and link.index in ports
        and not any(link.data.get(_VLAN_FILTERING, b"\0"))
    }


def _bridge(link: Link, settings: Mapping[str, bool] | None) -> list[Finding]:
    subject = f"bridge {link.name}"
    if settings is None:
        commands = " ".join(f"net.bridge.{name}=1" for name in CALLS)
        text = (
            "br_netfilter is not loaded, so no policy judges packets between pods of this bridge;"
            f" modprobe br_netfilter && sysctl -w {commands}"
        )
        return [Finding("bridge", subject, text, Severity.BYPASSED)]
    off = [
        name
        for name, option in _BRIDGE_OPTIONS.items()
        if not settings.get(name) and not any(link.data.get(option, b"\0"))
    ]
    found = []
    if off:
        names = " and ".join(f"net.bridge.{name}" for name in off)
        text = (
            f"{names} {'is' if len(off) == 1 else 'are'} 0, so no policy judges packets between"
            f" pods of this bridge; sysctl -w {' '.join(f'net.bridge.{name}=1' for name in off)}"
        )
        found.append(Finding("bridge", subject, text, Severity.BYPASSED))
    if any(link.data.get(_VLAN_FILTERING, b"\0")) and not settings.get(TAGGED):
        text = (
            f"it filters VLANs and net.bridge.{TAGGED} is 0, so no policy judges packets between"
            f" its ports, which all carry a tag; sysctl -w net.bridge.{TAGGED}=1"
        )
        found.append(Finding("bridge-vlan", subject, text, Severity.BYPASSED))
    return found


def qdiscs(bodies: Iterable[bytes]) -> list[Qdisc]:
    """Those whose filters are to be asked for."""
    found = []
    for body in bodies:
        _, index, handle, _, _ = _TC.unpack_from(body)
        kind = string(attributes(body[_TC.size :]).get(1, b""))
        parents = _PARENTS.get(kind, (handle,) if kind in _CLASSFUL else ())
        if parents:
            found.append(Qdisc(index, parents))
    return found


def all_qdiscs() -> bytes:
    return _TC.pack(0, 0, 0, 0, 0)


def filters_of(index: int, parent: int) -> bytes:
    return _TC.pack(0, index, 0, parent, 0)


def redirects(body: bytes) -> list[Redirect]:
    """What one filter does: `redirect`, `mirror`, or `bpf` for a program that may."""
    index = _TC.unpack_from(body)[1]
    values = attributes(body[_TC.size :])
    kind, options = string(values.get(1, b"")), attributes(values.get(2, b""))
    found = []
    flags = int.from_bytes(options.get(_BPF_FLAGS, b""), sys.byteorder)
    if kind == "bpf" and flags & _DIRECT_ACTION:
        found.append(Redirect(index, "bpf", 0))
    for _, action in listed(options.get(_ACTIONS.get(kind, 0), b"")):
        fields = attributes(action)
        name, details = string(fields.get(1, b"")), attributes(fields.get(2, b"")).get(2, b"")
        if name == "bpf":
            found.append(Redirect(index, "bpf", 0))
        if name == "mirred" and len(details) >= _MIRRED.size:
            what, target = _MIRRED.unpack_from(details)
            if what in (_REDIRECT, _MIRROR):
                found.append(Redirect(index, "redirect" if what == _REDIRECT else "mirror", target))
    return found


def traffic_control(links: Collection[Link], found: Iterable[Redirect]) -> list[Finding]:
    """Redirects and copies to devices that lead to pods, and programs that may redirect."""
    by_index = {link.index: link for link in links}
    findings, programs = set(), set()
    for index, kind, target in found:
        if index not in by_index:
            continue
        name = by_index[index].name
        if kind == "bpf":
            programs.add(name)
        elif leads(by_index.get(target), links):
            where = by_index[target].name if target in by_index else "another device"
            findings.add(_redirected(kind, name, where))
    if programs:
        findings.add(_programs("tc-bpf", "tc", programs, "bpftool net show dev DEVICE"))
    return sorted(findings)


def xdp(links: Iterable[Link]) -> list[Finding]:
    programs = {link.name for link in links if link.xdp}
    return [_programs("xdp", "XDP", programs, "bpftool net show dev DEVICE")] if programs else []


def _redirected(kind: str, name: str, where: str) -> Finding:
    see = f"tc -s filter show dev {name} ingress; tc -s filter show dev {name}"
    if kind == "redirect":
        text = f"tc sends packets from here to {where} before any policy judges them; {see}"
        return Finding("redirect", f"device {name}", text, Severity.BYPASSED)
    text = f"tc sends copies of packets from here to {where}, which no policy judges; {see}"
    return Finding("mirror", f"device {name}", text, Severity.WARNING)


def _programs(kind: str, where: str, names: Collection[str], command: str) -> Finding:
    shown = sorted(names)[:_SHOWN]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    text = (
        f"a BPF program at {where} may send packets to a pod before any policy judges them; see"
        f" whose it is: {command.replace('DEVICE', shown[0])}"
    )
    return Finding(kind, f"device {', '.join(shown)}{more}", text, Severity.WARNING)
