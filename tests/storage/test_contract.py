"""One suite over all engines: what `storage.contract` promises."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import pytest

from storage import (
    Batch,
    Compacted,
    Condition,
    Conflict,
    Event,
    EventType,
    FutureRevision,
    KeyExists,
    Record,
    StorageError,
    Store,
)
from storage.memory import MemoryStore


async def gather(watch: AsyncGenerator[Batch, None], count: int) -> list[Event]:
    """The next events of a watch, at least that many."""
    events: list[Event] = []
    async with asyncio.timeout(10):
        while len(events) < count:
            batch = await anext(watch)
            events += batch.events
            assert all(event.revision <= batch.revision for event in batch.events)
    return events


async def test_an_empty_store_has_a_revision_and_no_keys(store: Store) -> None:
    revision = await store.revision()
    assert revision >= 1
    assert await store.get("/a") == (None, revision)
    page = await store.list("/")
    assert (page.records, page.remaining, page.revision) == ((), 0, revision)


async def test_every_write_gets_a_greater_revision(store: Store) -> None:
    first = await store.create("/a", b"1")
    second = await store.update("/a", b"2", expected=first)
    third = await store.delete("/a", expected=second)
    fourth = await store.create("/a", b"3")
    assert 0 < first < second < third < fourth == await store.revision()


async def test_a_record_says_who_wrote_and_who_created_it(store: Store) -> None:
    created = await store.create("/a", b"1")
    written = await store.update("/a", b"2", expected=created)
    record, revision = await store.get("/a")
    assert record is not None
    assert (record.key, record.value) == ("/a", b"2")
    assert (record.created, record.revision, revision) == (created, written, written)


async def test_a_key_made_anew_is_a_new_creation(store: Store) -> None:
    first = await store.create("/a", b"1")
    await store.delete("/a", expected=first)
    again = await store.create("/a", b"2")
    record, _ = await store.get("/a")
    assert record is not None
    assert record.created == again


async def test_a_create_of_a_live_key_tells_what_is_there(store: Store) -> None:
    revision = await store.create("/a", b"1")
    with pytest.raises(KeyExists) as caught:
        await store.create("/a", b"2")
    assert (caught.value.current.value, caught.value.current.revision) == (b"1", revision)


async def test_a_stale_update_or_delete_tells_what_is_there(store: Store) -> None:
    stale = await store.create("/a", b"1")
    fresh = await store.update("/a", b"2", expected=stale)
    with pytest.raises(Conflict) as updating:
        await store.update("/a", b"3", expected=stale)
    with pytest.raises(Conflict) as deleting:
        await store.delete("/a", expected=stale)
    for caught in (updating, deleting):
        assert caught.value.current is not None
        assert caught.value.current.revision == fresh


async def test_an_update_or_delete_of_nothing_is_a_conflict(store: Store) -> None:
    for work in (store.update("/a", b"1", expected=5), store.delete("/a", expected=5)):
        with pytest.raises(Conflict) as caught:
            await work
        assert caught.value.current is None


async def test_S02_of_many_that_create_one_key_one_wins(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.create("/a", str(n).encode()) for n in range(20)), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(won) == 1
    assert all(isinstance(o, KeyExists) for o in outcomes if not isinstance(o, int))


async def test_increments_by_many_are_all_counted(store: Store) -> None:
    await store.create("/n", b"0")

    async def increment() -> None:
        record, _ = await store.get("/n")
        while True:
            assert record is not None
            try:
                value = str(int(record.value) + 1).encode()
                await store.update("/n", value, expected=record.revision)
            except Conflict as error:
                record = error.current
            else:
                return

    for _ in range(5):
        await asyncio.gather(*(increment() for _ in range(8)))
    record, _ = await store.get("/n")
    assert record is not None
    assert record.value == b"40"


async def test_keys_come_in_bytewise_order_and_only_those_of_the_prefix(store: Store) -> None:
    keys = ["/a/é", "/a/b", "/a/Z", "/a/b/c", "/a/b-c", "/a0", "/b/x", "/a/\U0001f600"]
    for key in keys:
        await store.create(key, b"v")
    listed = [record.key for record in (await store.list("/a/")).records]
    assert listed == sorted((k for k in keys if k.startswith("/a/")), key=str.encode)


async def test_S03_pages_of_one_revision_are_one_state(store: Store) -> None:
    for n in range(10):
        await store.create(f"/a/{n}", b"1")
    page = await store.list("/a/", limit=4)
    assert (len(page.records), page.remaining) == (4, 6)
    zero = page.records[0]
    await store.delete("/a/7", expected=(await store.list("/a/7")).records[0].revision)
    await store.create("/a/71", b"1")
    await store.update("/a/0", b"2", expected=zero.revision)
    found = list(page.records)
    while page.remaining:
        page = await store.list("/a/", after=found[-1].key, limit=4, revision=page.revision)
        found += page.records
    assert [record.key for record in found] == [f"/a/{n}" for n in range(10)]
    assert all(record.value == b"1" for record in found)


async def test_a_state_of_the_past_can_be_read(store: Store) -> None:
    first = await store.create("/a/x", b"1")
    second = await store.update("/a/x", b"2", expected=first)
    await store.delete("/a/x", expected=second)
    assert [r.value for r in (await store.list("/a/", revision=first)).records] == [b"1"]
    assert [r.value for r in (await store.list("/a/", revision=second)).records] == [b"2"]
    assert (await store.list("/a/")).records == ()


async def test_a_state_of_the_future_cannot_be_read(store: Store) -> None:
    current = await store.create("/a", b"1")
    for later in (current + 1, current + 100, 1 << 63, (1 << 64) - 1):
        with pytest.raises(FutureRevision) as caught:
            await store.list("/", revision=later)
        assert caught.value.current == current


async def test_a_watch_begins_at_once(store: Store) -> None:
    watch = store.watch("/", after=await store.revision())
    async with asyncio.timeout(5):
        assert (await anext(watch)).events == ()
    await watch.aclose()


async def test_a_watch_tells_what_happened_and_what_was_there(store: Store) -> None:
    start = await store.revision()
    created = await store.create("/a/x", b"1")
    await store.create("/b/x", b"elsewhere")
    updated = await store.update("/a/x", b"2", expected=created)
    watch = store.watch("/a/", after=start)
    events = await gather(watch, 2)
    deleted = await store.delete("/a/x", expected=updated)
    events += await gather(watch, 1)
    await watch.aclose()
    assert events == [
        Event(EventType.CREATED, "/a/x", created, b"1", None),
        Event(EventType.UPDATED, "/a/x", updated, b"2", b"1"),
        Event(EventType.DELETED, "/a/x", deleted, None, b"2"),
    ]


async def test_S11_watches_see_every_write_once_and_in_order(store: Store) -> None:
    start = await store.revision()
    watches = [store.watch("/a/", after=start) for _ in range(3)]

    async def write(worker: int) -> None:
        for n in range(40):
            revision = await store.create(f"/a/{worker}-{n}", b"1")
            if n % 3 == 0:
                await store.update(f"/a/{worker}-{n}", b"2", expected=revision)

    writing = asyncio.gather(*(write(worker) for worker in range(4)))
    seen = await asyncio.gather(*(gather(watch, 4 * (40 + 14)) for watch in watches))
    await writing
    for watch in watches:
        await watch.aclose()
    assert seen[0] == seen[1] == seen[2]
    revisions = [event.revision for event in seen[0]]
    assert revisions == sorted(set(revisions))
    assert len(revisions) == 4 * (40 + 14)


async def test_a_watch_resumes_after_any_revision(store: Store) -> None:
    revisions = [await store.create(f"/a/{n}", b"1") for n in range(10)]
    watch = store.watch("/a/", after=revisions[4])
    assert [event.revision for event in await gather(watch, 5)] == revisions[5:]
    await watch.aclose()


async def test_S12_compacted_states_and_history_are_refused(store: Store) -> None:
    revisions = [await store.create("/a/0", b"1")]
    for n in range(1, 6):
        revisions.append(await store.update("/a/0", str(n).encode(), expected=revisions[-1]))
    await store.compact(revisions[3])
    with pytest.raises(Compacted):
        await store.list("/a/", revision=revisions[2])
    with pytest.raises(Compacted):
        await gather(store.watch("/a/", after=revisions[1]), 100)
    assert [r.value for r in (await store.list("/a/", revision=revisions[3])).records] == [b"3"]
    assert [r.value for r in (await store.list("/a/")).records] == [b"5"]
    watch = store.watch("/a/", after=revisions[3])
    assert [event.revision for event in await gather(watch, 2)] == revisions[4:]
    await watch.aclose()
    await store.compact(revisions[1])
    with pytest.raises(FutureRevision):
        await store.compact(revisions[-1] + 100)


async def test_compaction_never_takes_revisions_back(store: Store) -> None:
    revision = await store.create("/a", b"1")
    deleted = await store.delete("/a", expected=revision)
    await store.compact(deleted)
    assert await store.revision() == deleted
    assert await store.create("/a", b"2") > deleted


async def test_large_values_come_back_whole(store: Store) -> None:
    value = bytes(range(256)) * 4096
    await store.create("/large", value)
    record, _ = await store.get("/large")
    assert record is not None
    assert record.value == value


async def test_a_create_holds_only_while_another_key_stands(store: Store) -> None:
    shelter = await store.create("/n", b"1")
    await store.create("/a", b"1", given=Condition("/n", shelter))
    changed = await store.update("/n", b"2", expected=shelter)
    with pytest.raises(Conflict) as caught:
        await store.create("/b", b"1", given=Condition("/n", shelter))
    assert caught.value.key == "/n"
    assert caught.value.current is not None
    assert caught.value.current.revision == changed
    with pytest.raises(KeyExists):
        await store.create("/a", b"1", given=Condition("/n", changed))
    await store.delete("/n", expected=changed)
    with pytest.raises(Conflict) as gone:
        await store.create("/b", b"1", given=Condition("/n", changed))
    assert (gone.value.key, gone.value.current) == ("/n", None)
    assert (await store.get("/b"))[0] is None


async def test_creates_race_with_the_end_of_what_they_stand_on(store: Store) -> None:
    """Whatever the order: what was created is there before the key changes, or not at all."""
    for turn in range(10):
        shelter = await store.create(f"/n/{turn}", b"1")
        given = Condition(f"/n/{turn}", shelter)
        *made, closed = await asyncio.gather(
            *(store.create(f"/in/{turn}/{n}", b"1", given=given) for n in range(6)),
            store.update(f"/n/{turn}", b"closed", expected=shelter),
            return_exceptions=True,
        )
        assert isinstance(closed, int)
        assert all(isinstance(outcome, int | Conflict) for outcome in made)
        assert all(outcome < closed for outcome in made if isinstance(outcome, int))
        standing = {record.revision for record in (await store.list(f"/in/{turn}/")).records}
        assert standing == {outcome for outcome in made if isinstance(outcome, int)}


async def test_a_watch_can_be_made_to_tell_how_far_it_is(store: Store) -> None:
    watch = store.watch("/a/", after=await store.revision())
    await anext(watch)
    for force in (False, True):
        told = [await store.create(f"/{place}/{force}", b"1") for place in ("a", "b")]
        if not await store.tell_progress(force=force):
            assert not force
            continue
        seen: list[Event] = []
        async with asyncio.timeout(5):
            while True:
                batch = await anext(watch)
                seen += batch.events
                if batch.revision >= told[1]:
                    break
                await store.tell_progress(force=force)
        assert told[0] in [event.revision for event in seen]
        assert all(event.key.startswith("/a/") for event in seen)
    await watch.aclose()
    assert [record.key for record in (await store.list("/")).records] == [
        "/a/False", "/a/True", "/b/False", "/b/True",
    ]  # fmt: skip


async def test_a_long_history_of_large_values_is_told_whole(store: Store) -> None:
    start = await store.revision()
    written = [await store.create(f"/a/{n}", bytes([n]) * 300_000) for n in range(30)]
    watch = store.watch("/a/", after=start)
    events = await gather(watch, 30)
    await watch.aclose()
    assert [event.revision for event in events] == written
    assert [event.value for event in events] == [bytes([n]) * 300_000 for n in range(30)]


@pytest.mark.parametrize("seed", range(3))
async def test_it_does_what_the_specification_does(store: Store, seed: int) -> None:
    """A random history, its outcomes, its past states and its watch, beside the engine in memory.

    Only the numbers of the revisions may differ: where others write too they have gaps.
    """
    rand = random.Random(seed)
    model = MemoryStore()
    pairs = {await model.revision(): await store.revision()}
    revisions = list(pairs)
    for turn in range(150):
        key, value = f"/{rand.choice('ab')}/{rand.randrange(6)}", str(turn).encode()
        current, _ = await model.get(key)
        expected = rand.choice([*revisions[-3:], current.revision if current else revisions[-1]])
        theirs = pairs[expected]
        match rand.choice(["create", "update", "update", "delete", "given"]):
            case "create":
                works = [s.create(key, value) for s in (model, store)]
            case "update":
                works = [model.update(key, value, expected=expected)]
                works += [store.update(key, value, expected=theirs)]
            case "delete":
                works = [model.delete(key, expected=expected)]
                works += [store.delete(key, expected=theirs)]
            case _:
                other = f"/{rand.choice('ab')}/{rand.randrange(6)}"
                works = [model.create(key, value, given=Condition(other, expected))]
                works += [store.create(key, value, given=Condition(other, theirs))]
        outcomes = [await _outcome(work) for work in works]
        if isinstance(outcomes[0], int):
            assert isinstance(outcomes[1], int)
            pairs[outcomes[0]] = outcomes[1]
            revisions.append(outcomes[0])
        else:
            assert outcomes[1] == _renumbered(outcomes[0], pairs)
    for revision in rand.sample(revisions, 10):
        for prefix, after, limit in (("/", "", 0), ("/a/", "/a/2", 2), ("/b/", "", 3)):
            ours = await model.list(prefix, after=after, limit=limit, revision=revision)
            page = await store.list(prefix, after=after, limit=limit, revision=pairs[revision])
            assert page.remaining == ours.remaining
            assert page.records == tuple(_renumbered(record, pairs) for record in ours.records)
    count = len(revisions) - 1
    theirs_told, ours_told = [
        await gather(s.watch("/", after=after), count)
        for s, after in ((store, pairs[revisions[0]]), (model, revisions[0]))
    ]
    assert theirs_told == [event._replace(revision=pairs[event.revision]) for event in ours_told]


async def _outcome(work: Awaitable[int]) -> object:
    try:
        return await work
    except StorageError as error:
        return type(error), getattr(error, "current", None)


def _renumbered(found: Any, pairs: dict[int, int]) -> Any:
    """A record, or the outcome that tells one, with the engine's own revisions."""
    if isinstance(found, Record):
        return found._replace(revision=pairs[found.revision], created=pairs[found.created])
    if isinstance(found, tuple):
        return tuple(_renumbered(part, pairs) for part in found)
    return found
