"""hypothesis: random clusters, small enough that their parts meet."""

from hypothesis import strategies as st

from policy import (
    Cluster,
    ContainerPort,
    Flow,
    Isolation,
    Namespace,
    Operator,
    Peer,
    Pod,
    Policy,
    Port,
    Protocol,
    Requirement,
    Rule,
    Selector,
)

NAMESPACES = ("a", "b", "c")
NODES = {"n1": frozenset({"10.0.1.1", "fd00:1::1"}), "n2": frozenset({"10.0.2.1"})}
ADDRESSES = tuple(f"10.0.0.{n}" for n in range(1, 6)) + tuple(f"fd00::{n}" for n in range(1, 5))
OUTSIDE = ("192.0.2.1", "2001:db8::1")
NUMBERS = (1, 79, 80, 81, 443, 8000, 8063, 8064, 8200, 65535)
NAMES = ("http", "dns")

keys = st.sampled_from(("app", "tier"))
values = st.sampled_from(("x", "y", "z"))
labels = st.dictionaries(keys, values, max_size=2)


@st.composite
def _requirements(draw: st.DrawFn) -> Requirement:
    operator = draw(st.sampled_from(Operator))
    if operator in (Operator.IN, Operator.NOT_IN):
        chosen = draw(st.sets(values, min_size=1, max_size=2))
        return Requirement(draw(keys), operator, tuple(sorted(chosen)))
    return Requirement(draw(keys), operator)


selectors = st.builds(
    lambda found: Selector(tuple(sorted(set(found)))), st.lists(_requirements(), max_size=2)
)
peers = st.one_of(
    st.builds(lambda s: Peer(pods=s), selectors), st.builds(lambda s: Peer(namespaces=s), selectors)
)
_ported = st.sampled_from((Protocol.TCP, Protocol.UDP, Protocol.SCTP))


@st.composite
def _ports(draw: st.DrawFn) -> Port:
    match draw(st.integers(0, 4)):
        case 0:
            return Port(draw(st.sampled_from(Protocol)))
        case 1:
            return Port(draw(_ported), name=draw(st.sampled_from(NAMES)))
        case 2:
            low, high = sorted((draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(NUMBERS))))
            return Port(draw(_ported), low, high)
        case _:
            number = draw(st.sampled_from(NUMBERS))
            return Port(draw(_ported), number, number)


rules = st.builds(
    Rule,
    peers=st.lists(peers, max_size=2).map(tuple),
    ports=st.lists(_ports(), max_size=3).map(tuple),
)
policies = st.builds(
    Policy,
    namespace=st.sampled_from(NAMESPACES),
    name=st.sampled_from(("p", "q", "r", "s", "t")),
    pod_selector=selectors,
    rules=st.lists(rules, max_size=3).map(tuple),
)
pods = st.builds(
    Pod,
    namespace=st.sampled_from((*NAMESPACES, "unknown")),
    name=st.sampled_from(tuple("abcdefgh")),
    labels=labels,
    ips=st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple),
    node=st.sampled_from((*NODES, "")),
    host_network=st.sampled_from((False, False, False, True)),
    finished=st.sampled_from((False, False, False, True)),
    ports=st.lists(
        st.builds(ContainerPort, st.sampled_from(NAMES), _ported, st.sampled_from(NUMBERS)),
        max_size=2,
    ).map(tuple),
    started=st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")),
)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    return Cluster(
        namespaces={
            name: Namespace(name, draw(labels), draw(st.sampled_from(Isolation)))
            for name in NAMESPACES
        },
        pods=tuple(draw(st.lists(pods, max_size=7, unique_by=lambda p: (p.namespace, p.name)))),
        policies=tuple(
            draw(st.lists(policies, max_size=5, unique_by=lambda p: (p.namespace, p.name)))
        ),
        nodes=NODES,
    )


def flows(cluster: Cluster) -> list[Flow]:
    """Every pair of addresses of one family with a spread of ports."""
    found = []
    sources = (*ADDRESSES, *OUTSIDE, *sorted(set().union(*NODES.values())))
    for target in ADDRESSES:
        for source in sources:
            if (":" in source) != (":" in target):
                continue
            found += [Flow(source, target, "TCP", number) for number in NUMBERS]
            found += [Flow(source, target, "UDP", 80), Flow(source, target, "SCTP", 8100)]
            found += [Flow(source, target, "ICMP"), Flow(source, target, "GRE")]
    return found
