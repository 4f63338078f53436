"""The transactions in a real kernel, in a private network namespace: no packets, only state."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from enforcer.compile import compile_ruleset
from enforcer.diff import diff
from enforcer.nft import dump
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.ruleset import FAMILY, TABLE, Ruleset
from policy import Cluster
from tests.policy import strategies

CIDRS = ("10.0.0.0/24", "fd00::/64")


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    private = Kernel(private=True)
    yield private
    private.close()


async def loaded(kernel: Kernel) -> list[str]:
    return dump.comparable(await kernel.table(FAMILY, TABLE) or [])


async def fresh(kernel: Kernel, rules: Ruleset) -> list[str]:
    """What the kernel holds after loading the ruleset into nothing."""
    if await kernel.table(FAMILY, TABLE) is not None:
        await kernel.run(f"delete table {FAMILY} {TABLE}")
    await kernel.run(diff(None, rules).text())
    return await loaded(kernel)


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(strategies.clusters(), strategies.clusters())
async def test_a_difference_leads_from_one_state_to_the_other(
    kernel: Kernel, one: Cluster, other: Cluster
) -> None:
    first = compile_ruleset(one, pod_cidrs=CIDRS)
    second = compile_ruleset(other, pod_cidrs=CIDRS)
    want = await fresh(kernel, second)
    await fresh(kernel, first)
    await kernel.run(diff(first, second).text())
    assert await loaded(kernel) == want
    assert not diff(second, second)


@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(strategies.clusters(), strategies.clusters())
async def test_a_table_that_was_left_behind_is_adopted(
    kernel: Kernel, one: Cluster, other: Cluster
) -> None:
    first, second = (compile_ruleset(c, pod_cidrs=CIDRS) for c in (one, other))
    want = await fresh(kernel, second)
    await fresh(kernel, first)
    objects = await kernel.table(FAMILY, TABLE)
    assert objects is not None
    adopted = dump.read(objects)
    assert {n: m.elements for n, m in adopted.maps.items()} == {
        n: m.elements for n, m in first.maps.items()
    }
    await kernel.run(diff(adopted, second).text())
    assert await loaded(kernel) == want


async def test_base_chains_are_never_made_again(kernel: Kernel) -> None:
    rules = compile_ruleset(Cluster())
    await fresh(kernel, rules)
    objects = await kernel.table(FAMILY, TABLE) or []
    text = diff(dump.read(objects), rules).text()
    assert "delete chain" not in text
    assert "delete table" not in text
    assert "hook" not in text


async def test_a_transaction_that_fails_changes_nothing(kernel: Kernel) -> None:
    before = await fresh(kernel, compile_ruleset(Cluster()))
    with pytest.raises(KernelError):
        await kernel.run(
            f"add element {FAMILY} {TABLE} iso4 {{ 10.0.0.1 }}\n"
            f"delete element {FAMILY} {TABLE} iso4 {{ 10.0.0.2 }}\n"
        )
    assert await loaded(kernel) == before


async def test_a_table_of_another_owner_is_not_taken(kernel: Kernel) -> None:
    await kernel.run(f"add table {FAMILY} {TABLE}")
    objects = await kernel.table(FAMILY, TABLE)
    assert objects is not None
    with pytest.raises(dump.ForeignTable, match="no chain schema_1"):
        dump.read(objects)
