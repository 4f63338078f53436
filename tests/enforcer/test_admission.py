"""What users write costs every node that has such a pod: it is bounded, and beyond that closed."""

import itertools

import pytest

from enforcer.admission import PIECES, SINGLES, TooLarge, admission, segments
from enforcer.compile import Compiler
from policy import (
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
from tests.enforcer.interpreter import Packet, passes

TCP = Protocol.TCP
POD = Pod("a", "p", {}, ("10.0.0.1",))


def peer(number: int) -> Peer:
    return Peer(pods=Selector((Requirement("x", Operator.IN, (str(number),)),)))


def ranges(count: int) -> tuple[Port, ...]:
    return tuple(Port(TCP, start, start + 30_000) for start in range(1, count + 1))


LARGE = {
    "ranges that overlap": (Rule((peer(1),), ranges(PIECES)),),
    "ranges with a peer each": tuple(Rule((peer(n),), (r,)) for n, r in enumerate(ranges(2000))),
    "ports and peers": (
        Rule(
            tuple(map(peer, range(5000))),
            tuple(Port(TCP, number, number) for number in range(1, 5000)),
        ),
    ),
    "ports with a peer each": tuple(
        Rule((peer(number),), (Port(TCP, number, number),)) for number in range(1, 600)
    ),
    "rules for one port": tuple(Rule((peer(n),), (Port(TCP, 80, 80),)) for n in range(3000)),
}


@pytest.mark.parametrize("rules", LARGE.values(), ids=LARGE.keys())
def test_what_multiplies_beyond_bounds_is_refused(rules: tuple[Rule, ...]) -> None:
    with pytest.raises(TooLarge):
        admission(POD, [Policy("a", "q", rules=rules)])


def test_many_narrow_ranges_are_intervals() -> None:
    narrow = tuple(Port(TCP, start, start + 60) for start in range(1, 60_000, 61))
    found = admission(POD, [Policy("a", "q", rules=(Rule((), narrow),))])
    assert len(found.ports) < SINGLES + 2 * 61
    covered = {number for _, number in found.ports}
    covered |= {n for _, low, high in found.ranges for n in range(low, high + 1)}
    assert covered >= set(range(1, 60_000))


def test_pieces_do_not_overlap_and_have_all_their_sources() -> None:
    one, two = frozenset({("a", peer(1))}), frozenset({("a", peer(2))})
    given = {(TCP, 1, 100): one, (TCP, 50, 200): two, (TCP, 150, 160): None, (TCP, 201, 300): one}
    found = segments(given)
    for number in itertools.chain(range(1, 301), (301,)):
        hits = [sources for (_, low, high), sources in found.items() if low <= number <= high]
        wanted = [sources for (_, low, high), sources in given.items() if low <= number <= high]
        assert len(hits) == bool(wanted)
        if wanted:
            assert hits[0] == (
                None if None in wanted else frozenset().union(*(w for w in wanted if w))
            )


def test_a_pod_whose_rules_are_too_much_is_closed_and_told_of() -> None:
    compiler = Compiler()
    compiler.put_namespace("a", Namespace("a", isolation=Isolation.ON))
    compiler.put_pod(("a", "p"), POD)
    compiler.put_policy(("a", "q"), Policy("a", "q", rules=LARGE["ports with a peer each"]))
    compiler.put_policy(("a", "open"), Policy("a", "open", rules=(Rule((), (Port(TCP, 80, 80),)),)))
    compiler.take()
    ((names, why),) = compiler.too_large.values()
    assert names == ["a/open", "a/q"]
    assert "at most 512" in why
    assert not passes(compiler.rules, Packet("192.0.2.1", "10.0.0.1", "TCP", 80))
    compiler.put_policy(("a", "q"), None)
    compiler.take()
    assert compiler.too_large == {}
    assert passes(compiler.rules, Packet("192.0.2.1", "10.0.0.1", "TCP", 80))


def test_a_pod_elsewhere_that_claims_an_address_opens_none_here() -> None:
    compiler = Compiler(node="n1")
    compiler.put_namespace("a", Namespace("a", isolation=Isolation.ON))
    compiler.put_namespace("b", Namespace("b"))
    here = Pod("a", "p", {}, ("10.0.0.1",), node="n1", started="2026-01-01T00:00:00Z")
    there = Pod("b", "q", {}, ("10.0.0.1",), node="n2", started="2026-01-02T00:00:00Z")
    compiler.put_pod(("a", "p"), here)
    compiler.put_pod(("b", "q"), there)
    compiler.take()
    assert not passes(compiler.rules, Packet("192.0.2.1", "10.0.0.1", "TCP", 80))
    compiler.put_pod(("a", "p"), None)
    compiler.take()
    assert passes(compiler.rules, Packet("192.0.2.1", "10.0.0.1", "TCP", 80))
