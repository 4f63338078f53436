"""Whose turn it is where many want something evaluated."""

import asyncio

import pytest

from apiserver.admission.cel.evaluator import flow
from apiserver.admission.cel.turns import OF_ALL, OF_ONE, Turns
from apiserver.api.status import StatusError


class Jobs:
    """Whose jobs have begun, in that order; each ends when it is told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._turns = Turns(2)
        self._ends: dict[str, list[asyncio.Event]] = {}

    async def run(self, who: str, size: int = 0, cost: float = 0.0) -> None:
        end = asyncio.Event()
        async with self._turns.take(who, lambda: size):
            self.begun.append(who)
            self._ends.setdefault(who, []).append(end)
            await end.wait()
            self._turns.charge(who, cost)

    async def end(self, who: str) -> None:
        self._ends[who].pop(0).set()
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.mark.parametrize(
    ("user", "who"),
    [
        ("alice", "alice"),
        ("system:serviceaccount:team-a:one", "system:serviceaccount:team-a"),
        ("system:serviceaccount:team-a:two", "system:serviceaccount:team-a"),
        ("system:node:one", "system:node:one"),
    ],
)
def test_the_accounts_of_a_namespace_have_their_turns_together(user: str, who: str) -> None:
    assert flow(user) == who


async def test_nobody_has_two_turns_at_once(jobs: Jobs) -> None:
    async with asyncio.TaskGroup() as group:
        for who in ("a", "a", "a", "b"):
            group.create_task(jobs.run(who))
        await settled()
        assert jobs.begun == ["a", "b"]
        await jobs.end("a")
        assert jobs.begun == ["a", "b", "a"]
        for who in ("a", "a", "b"):
            await jobs.end(who)


async def test_who_used_the_least_is_next(jobs: Jobs) -> None:
    async with asyncio.TaskGroup() as group:
        for who in ("a", "b", "a", "b", "c"):
            group.create_task(jobs.run(who, cost=1.0))
        await settled()
        assert jobs.begun == ["a", "b"]
        await jobs.end("a")  # of those who wait c has used nothing, and came last
        assert jobs.begun[2:] == ["c"]
        for who in ("c", "b", "a", "b"):
            await jobs.end(who)
        assert jobs.begun[3:] == ["a", "b"]


@pytest.mark.parametrize("size", [0, 1 << 20])
async def test_what_waits_is_bounded_for_each_and_others_are_not_kept_out(
    jobs: Jobs, size: int
) -> None:
    most = OF_ONE[1] // size if size else OF_ONE[0]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(jobs.run("a", size)) for _ in range(1 + most)]
        await settled()
        with pytest.raises(StatusError) as refused:
            await jobs.run("a", size)
        assert refused.value.code == 429
        assert refused.value.retry_after == 1
        running.append(group.create_task(jobs.run("b", size)))
        await settled()
        assert jobs.begun == ["a", "b"]
        for task in running:
            task.cancel()
    await jobs_again(jobs)


async def test_what_waits_is_bounded_for_all(jobs: Jobs) -> None:
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(jobs.run(f"u{n}")) for n in range(2 + OF_ALL[0])]
        await settled()
        with pytest.raises(StatusError):
            await jobs.run("another")
        for task in running:
            task.cancel()
    await jobs_again(jobs)


async def test_one_who_leaves_in_the_moment_of_its_turn_gives_it_back(jobs: Jobs) -> None:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(jobs.run("a"))
        second = group.create_task(jobs.run("a"))
        await settled()
        first.cancel()
        await asyncio.sleep(0)  # it is the turn of the second, which does not know yet
        second.cancel()
    await jobs_again(jobs)


async def jobs_again(jobs: Jobs) -> None:
    """Nothing that was taken is missing."""
    before = len(jobs.begun)
    async with asyncio.TaskGroup() as group:
        for who in ("x", "y"):
            group.create_task(jobs.run(who))
        await settled()
        assert jobs.begun[before:] == ["x", "y"]
        for who in ("x", "y"):
            await jobs.end(who)
