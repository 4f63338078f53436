"""Ten thousand random steps: the ruleset as it grew equals the one from scratch.

So does the kernel's dump of it now and then, and the reference verdict.
"""

import random
from collections.abc import AsyncIterator, Callable

import pytest

from enforcer.compile import Compiler, compile_ruleset
from enforcer.diff import differences
from enforcer.nft.kernel import Kernel
from enforcer.ruleset import Ruleset
from enforcer.table import Table
from policy import (
    Cluster,
    ContainerPort,
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
    verdict,
)
from tests.enforcer.interpreter import Packet, passes
from tests.policy import strategies

STEPS = 10_000
NODE = "n1"
CIDRS = ("10.0.0.0/28", "fd00::/124")


class World:
    """A cluster that changes at random; small enough that everything collides with everything."""

    def __init__(self, rand: random.Random) -> None:
        self.rand = rand
        self.namespaces: dict[str, Namespace] = {}
        self.pods: dict[tuple[str, str], Pod] = {}
        self.policies: dict[tuple[str, str], Policy] = {}

    def cluster(self) -> Cluster:
        return Cluster(self.namespaces, tuple(self.pods.values()), tuple(self.policies.values()))

    def step(self, compiler: Compiler) -> None:
        """One object appears, changes or goes."""
        chosen: Callable[[Compiler], None] = self.rand.choices(
            (self._namespace, self._pod, self._policy), (1, 5, 3)
        )[0]
        chosen(compiler)

    def _namespace(self, compiler: Compiler) -> None:
        name = self.rand.choice("abc")
        made = None
        if self.rand.random() < 0.8:
            made = Namespace(name, self._labels(), self.rand.choice(list(Isolation)))
        _put(self.namespaces, name, made)
        compiler.put_namespace(name, made)

    def _pod(self, compiler: Compiler) -> None:
        rand = self.rand
        key = rand.choice("abc"), f"p{rand.randrange(6)}"
        made = None
        if rand.random() < 0.8:
            numbers = rand.sample(range(1, 12), rand.choice((0, 1, 1, 1, 2)))
            ips = [f"10.0.0.{number}" for number in numbers]
            ips += [f"fd00::{number:x}" for number in numbers if rand.random() < 0.5]
            made = Pod(
                *key,
                self._labels(),
                tuple(ips),
                node=rand.choice((NODE, NODE, "n2")),
                host_network=rand.random() < 0.1,
                finished=rand.random() < 0.1,
                ports=self._declared(),
                started=f"2026-01-01T00:00:0{rand.randrange(3)}Z",
            )
        _put(self.pods, key, made)
        compiler.put_pod(key, made)

    def _policy(self, compiler: Compiler) -> None:
        key = self.rand.choice("abc"), f"q{self.rand.randrange(5)}"
        made = None
        if self.rand.random() < 0.75:
            rules = tuple(self._rule() for _ in range(self.rand.choice((0, 1, 1, 2))))
            made = Policy(*key, self._selector(), rules)
        _put(self.policies, key, made)
        compiler.put_policy(key, made)

    def _labels(self) -> dict[str, str]:
        return {key: self.rand.choice("12") for key in "xyz" if self.rand.random() < 0.6}

    def _declared(self) -> tuple[ContainerPort, ...]:
        number = self.rand.choice((80, 81))
        return (ContainerPort("web", Protocol.TCP, number),) if self.rand.random() < 0.5 else ()

    def _selector(self) -> Selector:
        rand = self.rand
        found = []
        for key in rand.sample("xyz", rand.choice((0, 1, 1, 2))):
            operator = rand.choice(list(Operator))
            values = tuple(sorted(rand.sample("123", rand.choice((1, 2)))))
            existence = operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST)
            found.append(Requirement(key, operator, () if existence else values))
        return Selector(tuple(sorted(found)))

    def _rule(self) -> Rule:
        rand = self.rand
        peers = []
        for _ in range(rand.choice((0, 1, 1, 2))):
            kind = rand.choice(("pods", "namespaces"))
            peers.append(Peer(**{kind: self._selector()}))
        ports = [
            rand.choice(
                (
                    Port(Protocol.TCP, 80, 80),
                    Port(Protocol.TCP, name="web"),
                    Port(Protocol.UDP),
                    Port(Protocol.ICMP),
                    Port(Protocol.SCTP, 80, 82),
                    Port(Protocol.TCP, 80, 200),
                    Port(Protocol.TCP, 100, 300),
                )
            )
            for _ in range(rand.choice((0, 1, 2)))
        ]
        return Rule(tuple(peers), tuple(ports))


def _put(known: dict, key: object, made: object) -> None:  # type: ignore[type-arg]
    if made is None:
        known.pop(key, None)
    else:
        known[key] = made


def same(one: Ruleset, other: Ruleset) -> bool:
    return (one.sets, one.chains, one.digest(), one.size) == (
        other.sets,
        other.chains,
        other.digest(),
        other.size,
    )


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    private = Kernel(private=True)
    yield private
    private.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_step_leads_where_a_start_from_scratch_does(kernel: Kernel, seed: int) -> None:
    rand = random.Random(seed)
    world, compiler, table = World(rand), Compiler(node=NODE, pod_cidrs=CIDRS), Table(kernel)
    await table.load(compiler.rules)
    compiler.take()
    for step in range(STEPS // 2):
        for _ in range(rand.choice((1, 1, 1, 2, 5))):
            world.step(compiler)
            compiler.work(rand.choice((0, 0, 1, 3)))
        change = compiler.take()
        await table.commit(change, compiler.rules)
        scratch = compile_ruleset(world.cluster(), node=NODE, pod_cidrs=CIDRS)
        assert same(compiler.rules, scratch), step
        if step % 50 == 0:
            assert differences(await table.verify(scratch)) == []
        if step % 100 == 0:
            _against_the_verdict(world.cluster(), compiler.rules)
    assert differences(await table.verify(compiler.rules)) == []


async def test_nothing_is_left_when_everything_is_gone(kernel: Kernel) -> None:
    rand = random.Random(3)
    world, compiler, table = World(rand), Compiler(node=NODE), Table(kernel)
    compiler.take()
    await table.load(compiler.rules)
    empty = await kernel.held(table.name)
    for _ in range(1000):
        world.step(compiler)
        await table.commit(compiler.take(), compiler.rules)
    for name in list(world.namespaces):
        compiler.put_namespace(name, None)
    for key in list(world.pods):
        compiler.put_pod(key, None)
    for key in list(world.policies):
        compiler.put_policy(key, None)
    await table.commit(compiler.take(), compiler.rules)
    assert await kernel.held(table.name) == empty
    assert same(compiler.rules, compile_ruleset(Cluster(), node=NODE))


def _against_the_verdict(cluster: Cluster, rules: Ruleset) -> None:
    for flow in strategies.flows(cluster)[::7]:
        owner = cluster.owner(flow.destination)
        if owner is not None and owner.node == NODE:
            packet = Packet(flow.source, flow.destination, flow.protocol, flow.port)
            found = verdict(cluster, flow)
            assert passes(rules, packet) == found.allowed, (packet, found.explain())
