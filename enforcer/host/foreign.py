"""What rules of other tables do to packets before the policies judge them. Pure.

Read from the raw answers of nf_tables. Expressions that are not known here are skipped, never an
error; most rules are not even decoded, because none of the words that matter is in them.

A hook is a list of base chains, and `accept` ends one of them, not the list. So no `accept`, in
whatever table and of whatever priority, takes a packet from the policies, and neither does `drop`,
`reject` or `synproxy` (which opens the connection to the pod through OUTPUT, where it is judged). A
BPF program at a netfilter hook can only accept and drop. What can:

- a flowtable: connections in it skip the hook, also once a policy no longer allows them;
- `fwd` at a netdev hook: the packet leaves through another device at once;
- an address that is written over in prerouting after conntrack has seen it: the packet goes to
  another pod than the connection that is judged;
- `queue` before us: the program at the other end may answer NF_STOP, which does end the hook;
- `dup` and TEE: copies do not pass the hook;
- `tproxy`: connections end at a proxy, and the node is not judged;
- `notrack`: there is no connection to judge, and the policies drop it at isolated pods.

Tables that are dormant, chains that hang on no hook that matters, a flowtable that no rule adds to
and a `fwd` that leads to no pod are no findings.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from enforcer.host.finding import Finding, Severity
from enforcer.nft.wire import attributes, listed, string

HEAD = 4  # bytes of `struct nfgenmsg`; the first one is the family
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
DORMANT = 0x1

_IP, _BRIDGE, _NETDEV = ("inet", "ip", "ip6"), "bridge", "netdev"
_PREROUTING, _FORWARD, _OUTPUT, _INET_INGRESS = 0, 2, 3, 5
_CONNTRACK = -200  # NF_IP_PRI_CONNTRACK
_OURS = 10  # priority of the policies' base chains: filter + 10
_BR_NETFILTER = 0  # NF_BR_PRI_BRNF: where bridged packets enter the hooks of IP
_NETWORK_HEADER = 1
_DESTINATIONS = ((16, 4), (24, 16))  # offset and length of the address, in IPv4 and in IPv6
_NOTRACK = 0x3  # XT_CT_NOTRACK and XT_CT_NOTRACK_ALIAS

# The name of an expression or of an xtables target is an attribute of type 1, the source of a
# payload that is written one of type 5.
_SUSPECT = re.compile(
    re.escape(struct.pack("=H", 1))
    + rb"(?:notrack|queue|tproxy|dup|fwd|CT|NOTRACK|NFQUEUE|TPROXY|TEE)\0|"
    + re.escape(struct.pack("=HH", 8, 5))
)
_TARGETS = {"NOTRACK": "notrack", "NFQUEUE": "queue", "TPROXY": "tproxy", "TEE": "dup"}

_TEXTS = {
    "flowtable": (
        Severity.BYPASSED,
        "connections in a flowtable skip the forward hook, so a policy that is tightened does not"
        " reach them; remove the rules with `flow add`: nft -a list table {table}",
    ),
    "fwd": (
        Severity.BYPASSED,
        "`fwd` sends packets to a pod's device before any policy judges them; remove the rule:"
        " nft -a list table {table}",
    ),
    "rewrite": (
        Severity.BYPASSED,
        "a rule writes a destination over after conntrack has seen the packet, so another pod gets"
        " it than the one that is judged; use `dnat to` instead: nft -a list table {table}",
    ),
    "queue": (
        Severity.WARNING,
        "the program that gets packets from `queue` may let them pass every later chain (NF_STOP),"
        " the policies too; give the chain a priority above filter + 10: nft -a list table {table}",
    ),
    "dup": (
        Severity.WARNING,
        "copies that `dup` makes reach a pod without being judged; remove the rule unless they are"
        " meant to: nft -a list table {table}",
    ),
    "tproxy": (
        Severity.WARNING,
        "connections to pods that `tproxy` catches end at a proxy of this node, and what a node"
        " sends is not judged; leave pods out of the rule: nft -a list table {table}",
    ),
    "notrack": (
        Severity.WARNING,
        "packets without connection tracking cannot be judged and are dropped at isolated pods;"
        " leave pods out of the rule: nft -a list table {table}",
    ),
}

Table = tuple[str, str]  # family and name
Leads = Callable[[int], bool]  # whether the device of this index leads to pods


class Hook(NamedTuple):
    """Where a base chain hangs."""

    number: int
    priority: int


def tables(bodies: Iterable[bytes], *, own: str) -> list[Table]:
    """The tables of others that see packets; `own` is what the names of ours begin with."""
    found = []
    for body in bodies:
        values = attributes(body[HEAD:])
        name, flags = string(values.get(1, b"")), _number(values.get(2))
        if not name.startswith(own) and not flags & DORMANT:
            found.append((_family(body), name))
    return found


def hooks(bodies: Iterable[bytes]) -> dict[Table, dict[str, Hook]]:
    """Where the base chains of each table hang, by name, from all chains."""
    found: dict[Table, dict[str, Hook]] = defaultdict(dict)
    for body in bodies:
        values = attributes(body[HEAD:])
        if 4 in values:
            hook = attributes(values[4])
            priority = int.from_bytes(hook.get(2, b""), "big", signed=True)
            table, chain = string(values.get(1, b"")), string(values.get(3, b""))
            found[_family(body), table][chain] = Hook(_number(hook.get(1)), priority)
    return dict(found)


def flowtables(bodies: Iterable[bytes], *, among: Iterable[Table]) -> list[Finding]:
    """Those that rules add connections to."""
    found, known = [], set(among)
    for body in bodies:
        values = attributes(body[HEAD:])
        table = _family(body), string(values.get(1, b""))
        if table in known and _number(values.get(4)):
            found.append(_finding("flowtable", table, f"flowtable {string(values.get(2, b''))}"))
    return found


def rules(
    bodies: Iterable[bytes], *, table: Table, hooks: Mapping[str, Hook], leads: Leads
) -> list[Finding]:
    """What the rules of one table do; one finding a kind and chain. `hooks` are by base chain."""
    found = set()
    for body in bodies:
        if not _SUSPECT.search(body):
            continue
        values = attributes(body[HEAD:])
        chain = string(values.get(2, b""))
        # Which base chains lead to another one is in elements of verdict maps too, and those are
        # not read: all of its table's may.
        hanging = (hooks[chain],) if chain in hooks else tuple(hooks.values())
        for kind in _kinds(values.get(4, b""), leads):
            if any(_matters(kind, table[0], hook) for hook in hanging):
                found.add(_finding(kind, table, f"chain {chain}"))
    return sorted(found)


def _kinds(expressions: bytes, leads: Leads) -> Iterator[str]:
    """What a rule would be findings of, at hooks where it matters."""
    registers: dict[bytes, bytes] = {}

    def register_leads(register: bytes) -> bool:
        """A device that does not stand in the rule comes from a map, and may be any."""
        index = registers.get(register, b"")
        return len(index) != 4 or leads(struct.unpack("=I", index)[0])

    for _, element in listed(expressions):
        expression = attributes(element)
        name, data = string(expression.get(1, b"")), attributes(expression.get(2, b""))
        if name == "immediate":
            registers[data.get(1, b"")] = attributes(data.get(2, b"")).get(1, b"")
        elif kind := _kind(name, data, register_leads):
            yield kind


def _kind(name: str, data: Mapping[int, bytes], leads: Callable[[bytes], bool]) -> str:
    match name:
        case "notrack" | "queue" | "tproxy":
            return name
        case "fwd":
            return name if leads(data.get(1, b"")) else ""
        case "dup":
            # With an address it goes by the routes, without one straight through a device.
            return name if 1 in data or leads(data.get(2, b"")) else ""
        case "payload":
            written = 5 in data and _number(data.get(2)) == _NETWORK_HEADER
            where = _number(data.get(3)), _number(data.get(4))
            return "rewrite" if written and where in _DESTINATIONS else ""
        case "target":
            target, info = string(data.get(1, b"")), data.get(3, b"")
            if target == "CT":
                flags = struct.unpack_from("=H", info)[0] if len(info) >= 2 else 0
                return "notrack" if flags & _NOTRACK else ""
            return _TARGETS.get(target, "")
    return ""


def _matters(kind: str, family: str, hook: Hook) -> bool:
    """Whether packets to pods meet that hook before they are judged."""
    number, priority = hook
    ip = family in _IP and number != _INET_INGRESS
    ingress = family == _NETDEV or (family == "inet" and number == _INET_INGRESS)
    match kind:
        case "fwd":
            return ingress
        case "dup":
            return ingress or (ip and number != _OUTPUT)
        case "queue":
            if family == _BRIDGE:
                return number in (_PREROUTING, _FORWARD) and priority <= _BR_NETFILTER
            return ip and number == _FORWARD and priority <= _OURS
        case "tproxy":
            return ip and number == _PREROUTING
        case "notrack":
            early = family == _BRIDGE or priority < _CONNTRACK
            return ingress or (number == _PREROUTING and early)
        case "rewrite":
            return ip and number == _PREROUTING and priority > _CONNTRACK
    return False


def _finding(kind: str, table: Table, what: str) -> Finding:
    severity, text = _TEXTS[kind]
    name = " ".join(table)
    return Finding(kind, f"table {name}, {what}", text.format(table=name), severity)


def _family(body: bytes) -> str:
    return FAMILIES.get(body[0], str(body[0])) if body else ""


def _number(payload: bytes | None) -> int:
    return int.from_bytes(payload or b"", "big")
