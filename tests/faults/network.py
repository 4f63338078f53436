"""Hosts on one bridge, each in a network namespace, and cuts between them, all made by the test.

The bridge has a namespace of its own; the machine's own namespace has one leg on it and no rule.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

MACHINE = "machine"  # the machine's own namespace, where PostgreSQL and the test are
RULES = """
table inet cut {{
  chain in {{ type filter hook input priority 0; ip saddr {{ {gone} }} drop; }}
  chain out {{ type filter hook output priority 0; ip daddr {{ {gone} }} drop; }}
}}
"""
_NETWORKS = itertools.count()


@dataclass(slots=True)
class Network:
    """`addresses` and `netns` of the hosts by name; a cut drops everything, both ways, silently."""

    prefix: str
    addresses: dict[str, str] = field(default_factory=dict)
    netns: dict[str, str] = field(default_factory=dict)
    _cuts: set[tuple[str, str]] = field(default_factory=set)

    def cut(self, one: Sequence[str], other: Sequence[str]) -> None:
        """Between every host of the one side and every host of the other."""
        self._cuts |= set(itertools.product(one, other)) | set(itertools.product(other, one))
        self._apply()

    def isolate(self, host: str) -> None:
        """From all others."""
        self.cut([host], [name for name in self.addresses if name != host])

    def heal(self) -> None:
        self._cuts.clear()
        self._apply()

    def _apply(self) -> None:
        for host, netns in self.netns.items():
            if host == MACHINE:
                continue
            gone = [self.addresses[to] for at, to in self._cuts if at == host]
            rules = "add table inet cut\ndelete table inet cut\n"
            if gone:
                rules += RULES.format(gone=", ".join(gone))
            _run("ip", "netns", "exec", netns, "nft", "-f", "-", stdin=rules)


@contextmanager
def network(*hosts: str) -> Iterator[Network]:
    """The machine and these hosts, in a private range; removed at the end, whatever happened.

    Whoever starts a process in a namespace ends it before.
    """
    number = next(_NETWORKS)
    made = Network(f"nf{os.getpid()}x{number}")
    bridge, leg = f"{made.prefix}-bridge", f"{made.prefix}m"
    subnet = f"10.111.{(os.getpid() + number) % 250}"
    try:
        _run("ip", "netns", "add", bridge)
        _ip(bridge, "link add br0 type bridge", "link set br0 up")
        for last, host in enumerate(hosts, start=1):
            netns = made.netns[host] = f"{made.prefix}-{host}"
            made.addresses[host] = f"{subnet}.{last}"
            _run("ip", "netns", "add", netns)
            _ip(bridge, f"link add v{last} type veth peer name eth0 netns {netns}")
            _ip(bridge, f"link set v{last} master br0", f"link set v{last} up")
            _ip(netns, "link set lo up", "link set eth0 up")
            _ip(netns, f"addr add {subnet}.{last}/24 dev eth0")
        made.netns[MACHINE], made.addresses[MACHINE] = "", f"{subnet}.254"
        _ip("", f"link add {leg} type veth peer name v254 netns {bridge}")
        _ip(bridge, "link set v254 master br0", "link set v254 up")
        _ip("", f"addr add {subnet}.254/24 dev {leg}", f"link set {leg} up")
        yield made
    finally:
        with suppress(RuntimeError):
            _ip("", f"link del {leg}")
        for netns in (bridge, *made.netns.values()):
            if netns:
                subprocess.run(("ip", "netns", "del", netns), check=False, capture_output=True)


def _ip(netns: str, *commands: str) -> None:
    where = ("-n", netns) if netns else ()
    _run("ip", *where, "-batch", "-", stdin="\n".join(commands) + "\n")


def _run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{stdin}")
