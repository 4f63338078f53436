"""Reads of a history that was compacted, without a server around it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest

from apiserver.api import builtin
from apiserver.api.selectors import FieldSelector, LabelSelector
from apiserver.api.status import StatusError
from apiserver.cache.cacher import Cacher
from apiserver.cache.session import View
from apiserver.registry import reader as reader_module
from apiserver.registry.continuation import Continuation
from apiserver.registry.reader import ListOptions, Reader
from storage.memory import MemoryStore

PODS = builtin.PODS
VIEW = View(PODS.prefix + "default/", LabelSelector(), FieldSelector())


@pytest.fixture
async def reader() -> AsyncIterator[tuple[Reader, int, int]]:
    """A reader of three pods, a revision that was compacted, and the newest one."""
    store = MemoryStore()
    revisions = []
    for name in ("a", "b", "c"):
        value = orjson.dumps({"metadata": {"name": name, "uid": name}})
        revisions.append(await store.create(f"{PODS.prefix}default/{name}", value))
    cacher = Cacher(store=store, resources=[PODS])
    task = asyncio.create_task(cacher.run())
    await cacher.until_ready()
    await store.compact(revisions[-1])
    yield Reader(store=store, cacher=cacher), revisions[0], revisions[-1]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await store.close()


async def test_L14_E10_a_compacted_version_is_410(reader: tuple[Reader, int, int]) -> None:
    read, old, _ = reader
    with pytest.raises(StatusError) as raised:
        await read.list(PODS, VIEW, ListOptions(revision=old, match="Exact"))
    assert (raised.value.code, raised.value.reason) == (410, "Expired")
    assert raised.value.message == "The resourceVersion for the provided list is too old."


async def test_L10_a_compacted_page_offers_to_go_on_inconsistently(
    reader: tuple[Reader, int, int],
) -> None:
    read, old, newest = reader
    token = Continuation(old, "a").encode()
    with pytest.raises(StatusError) as raised:
        await read.list(PODS, VIEW, ListOptions(token=token, limit=1))
    body = raised.value.as_json()
    assert (body["code"], body["reason"]) == (410, "Expired")
    assert body["message"].startswith(
        "The provided continue parameter is too old to display a consistent list result."
    )
    offered = body["metadata"]["continue"]
    assert Continuation.decode(offered) == Continuation(-1, "a")
    found = await read.list(PODS, VIEW, ListOptions(token=offered, limit=1))
    assert [item.key[-1] for item in found.items] == ["b"]
    assert found.revision == newest


async def test_S06_a_cache_that_is_not_filled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "WAIT", 0.01)
    store = MemoryStore()
    read = Reader(store=store, cacher=Cacher(store=store, resources=[PODS]))
    for work in (read.list(PODS, VIEW, ListOptions()), read.get(PODS, "/pods/a/b", "b", None)):
        with pytest.raises(StatusError) as raised:
            await work
        assert (raised.value.code, raised.value.reason) == (429, "TooManyRequests")
        assert raised.value.retry_after == 1
