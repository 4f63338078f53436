"""Changes in a real kernel, in a private network namespace: no packets, only state."""

import ctypes
import errno
import socket
import subprocess
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from enforcer.compile import compile_ruleset
from enforcer.diff import Held, diff, differences
from enforcer.nft.expressions import NoStatement, compiled
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.ruleset import FAMILY, TABLE, Chain, Change, NftSet, Ruleset
from enforcer.table import LOCK, Table, Taken
from enforcer.text import rendered
from policy import Cluster
from tests.policy import strategies

SETRESUID = 117  # of x86-64
CIDRS = ("10.0.0.0/24", "10.0.1.0/24", "10.0.3.0/24", "10.0.4.0/24", "fd00::/64")

few = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    private = Kernel(private=True)
    yield private
    private.close()


async def nft(kernel: Kernel, *arguments: str, text: str = "") -> str:
    """Run nft in the namespace of the kernel."""
    done = await kernel.inside(
        lambda: subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, check=False
        )
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


async def loaded(kernel: Kernel) -> Held:
    return await kernel.held(TABLE)


@few
@given(strategies.clusters())
async def test_nft_makes_the_same_of_the_text(kernel: Kernel, cluster: Cluster) -> None:
    rules = compile_ruleset(cluster, pod_cidrs=CIDRS)
    await Table(kernel).remove()
    await nft(kernel, "-f", "-", text=rendered(rules))
    by_nft = await loaded(kernel)
    assert differences(diff(by_nft, rules)) == []
    await kernel.delete(TABLE)
    await Table(kernel).load(rules)
    by_us = await loaded(kernel)
    assert by_us == by_nft


@few
@given(strategies.clusters(), strategies.clusters())
async def test_a_difference_leads_from_one_state_to_the_other(
    kernel: Kernel, one: Cluster, other: Cluster
) -> None:
    first, second = (compile_ruleset(c, pod_cidrs=CIDRS) for c in (one, other))
    table = Table(kernel)
    await table.remove()
    await table.load(first)
    assert differences(diff(await loaded(kernel), first)) == []
    await Table(kernel).load(second)
    assert differences(diff(await loaded(kernel), second)) == []
    assert not await Table(kernel).load(second)


async def test_what_nft_lists_can_be_loaded_again(kernel: Kernel) -> None:
    await Table(kernel).load(compile_ruleset(Cluster(), pod_cidrs=CIDRS))
    listed = await nft(kernel, "list", "table", FAMILY, TABLE)
    assert "flags owner" in listed
    shared = "\n".join(line for line in listed.splitlines() if "flags owner" not in line)
    await kernel.delete(TABLE)
    await nft(kernel, "-f", "-", text=shared)


async def test_base_chains_are_never_made_again(kernel: Kernel) -> None:
    rules = compile_ruleset(Cluster())
    await Table(kernel).load(rules)
    before = await nft(kernel, "-a", "list", "chain", FAMILY, TABLE, "forward")
    change = diff(await loaded(kernel), compile_ruleset(Cluster(), pod_cidrs=CIDRS))
    assert not change.chains
    assert not change.gone_chains
    await Table(kernel).load(compile_ruleset(Cluster(), pod_cidrs=CIDRS))
    assert await nft(kernel, "-a", "list", "chain", FAMILY, TABLE, "forward") == before


async def test_a_transaction_that_fails_changes_nothing(kernel: Kernel) -> None:
    rules = compile_ruleset(Cluster())
    table = Table(kernel)
    await table.load(rules)
    before = await loaded(kernel)
    change = Change(added={"iso4": {"10.0.0.1": ""}}, removed={"iso6": {"fd00::1": ""}})
    with pytest.raises(KernelError, match="elements of iso6: No such file") as caught:
        await table.commit(change, rules)
    assert caught.value.code == errno.ENOENT
    assert await loaded(kernel) == before


async def test_tampering_is_found_and_named(kernel: Kernel) -> None:
    kernel.owned = False
    rules = compile_ruleset(Cluster(), pod_cidrs=CIDRS)
    table = Table(kernel)
    await table.load(rules)
    for command in (
        "add element inet netpol pods4 { 192.0.2.7 : accept }",
        "delete element inet netpol cidr4 { 10.0.4.0/24 }",
        "insert rule inet netpol forward accept",
        "flush chain inet netpol deny",
        "add chain inet netpol strange",
    ):
        await nft(kernel, *command.split())
    assert differences(await table.verify(rules)) == [
        "chain deny has other rules",
        "chain forward has other rules",
        "cidr4: 10.0.4.0/24 is missing",
        "pods4: 192.0.2.7 : accept should not be there",
        "chain strange should not be there",
    ]
    await table.load(rules)
    assert not await table.verify(rules)


async def test_a_table_is_its_owners_and_outlives_it(kernel: Kernel) -> None:
    rules = compile_ruleset(Cluster())
    table = Table(kernel)
    await table.load(rules)
    with pytest.raises(RuntimeError, match="Operation not permitted"):
        await nft(kernel, "delete", "table", FAMILY, TABLE)
    await nft(kernel, "flush", "ruleset")
    assert [item.name for item in await kernel.tables()] == [TABLE]


async def test_a_table_of_another_version_is_replaced_by_a_second_one(kernel: Kernel) -> None:
    await nft(
        kernel,
        "-f",
        "-",
        text=f'table inet {TABLE} {{ comment "owner=netpol-enforcer schema=1"; chain old {{ }}; }}',
    )
    table = Table(kernel)
    await table.load(compile_ruleset(Cluster()))
    assert table.name == f"{TABLE}_2"
    assert [item.name for item in await kernel.tables()] == [f"{TABLE}_2"]


async def test_a_table_of_somebody_else_is_left_alone(kernel: Kernel) -> None:
    await nft(kernel, "-f", "-", text=f"table inet {TABLE} {{ chain theirs {{ }}; }}")
    table = Table(kernel)
    await table.load(compile_ruleset(Cluster()))
    assert table.name == f"{TABLE}_2"
    await table.remove()
    assert [item.name for item in await kernel.tables()] == [TABLE]


async def test_one_enforcer_programs_a_namespace(kernel: Kernel) -> None:
    first = Table(kernel)
    await first.lock()
    with pytest.raises(Taken, match="another enforcer"):
        await Table(kernel).lock()
    first.unlock()
    second = Table(kernel)
    await second.lock()
    second.unlock()


async def test_a_ruleset_of_many_transactions_is_whole_at_the_end(kernel: Kernel) -> None:
    rules = compile_ruleset(Cluster())
    rules.add_set("p4_large", NftSet("ipv4_addr"))
    for number in range(300_000):
        rules.put("p4_large", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    table = Table(kernel)
    await table.load(rules)
    assert not await table.verify(rules)


def test_a_rule_that_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(NoStatement, match="none of the statements"):
        compiled("tcp dport 80 accept")


async def test_a_failed_creation_leaves_nothing(kernel: Kernel) -> None:
    rules = Ruleset()
    rules.add_chain("bad", Chain(("jump nowhere",)))
    with pytest.raises(KernelError, match="jump nowhere"):
        await Table(kernel).load(rules)
    assert await kernel.tables() == []


@pytest.mark.parametrize(
    "command",
    [
        "add element inet netpol pods4 { * : accept }",
        "add set inet netpol strange { type mark; elements = { 7 }; }",
        "add map inet netpol strange { type ipv4_addr : mark; elements = { 10.0.0.1 : 7 }; }",
    ],
)
async def test_what_we_never_put_there_goes(kernel: Kernel, command: str) -> None:
    kernel.owned = False
    rules = compile_ruleset(Cluster(), pod_cidrs=CIDRS)
    table = Table(kernel)
    await table.load(rules)
    await nft(kernel, *command.split())
    assert differences(await table.verify(rules))
    await table.load(rules)
    assert not await table.verify(rules)
    listed = await nft(kernel, "list", "ruleset")
    assert "strange" not in listed
    assert "* : accept" not in listed


async def test_a_lock_that_nobody_holds_keeps_no_enforcer_out(kernel: Kernel) -> None:
    def taken() -> socket.socket:
        """By a user without rights: a thread has its own user, as far as the kernel goes."""
        libc = ctypes.CDLL(None, use_errno=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(LOCK)
        assert libc.syscall(SETRESUID, -1, 65534, -1) == 0
        made.listen()
        assert libc.syscall(SETRESUID, -1, 0, -1) == 0
        return made

    theirs = await kernel.inside(taken)
    table = Table(kernel)
    await table.lock()
    table.unlock()
    theirs.close()


async def test_closing_starts_from_what_the_kernel_holds(kernel: Kernel) -> None:
    rules = compile_ruleset(Cluster())
    table = Table(kernel)
    await table.load(rules)
    # Neither the set nor the entry has been committed yet.
    rules.put("iso4", "10.0.0.1")
    rules.put("pods4", "10.0.0.1", "accept")
    await table.close(rules)
    assert (await loaded(kernel)).sets["pods4"].elements == {"10.0.0.1": "drop"}
