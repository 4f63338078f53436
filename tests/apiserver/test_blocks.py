"""Objects in blocks: their order, their JSON, and what a change costs."""

import random

import pytest

from apiserver.cache import blocks
from apiserver.cache.blocks import Blocks
from apiserver.cache.object import Object


def item(key: str, data: bytes = b"{}") -> Object:
    return Object(key, 1, data, {}, {})


def listed(found: Blocks, prefix: str) -> bytes:
    return b"".join(run.encode() for run in found.runs(prefix))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_it_is_a_sorted_mapping_whatever_happens(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SIZE", size)
    rand = random.Random(size)
    found, model = Blocks(), dict[str, bytes]()
    for turn in range(2_000):
        key = f"/{rand.choice(('a', 'a-b', 'ab', 'é', 'b'))}/{rand.randrange(40)}"
        if key in model and rand.random() < 0.5:
            found.pop(key)
            del model[key]
        else:
            model[key] = str(turn).encode()
            found.put(item(key, model[key]))
        prefix = rand.choice(("/a/", "/ab/", "/é/", "/none/", "/"))
        keys = sorted((k for k in model if k.startswith(prefix)), key=str.encode)
        assert [each.key for each in found.under(prefix)] == keys
        assert found.about("/") == len(model)
        assert found.about(prefix) > 0 or not keys
        assert listed(found, prefix) == b"".join(b"," + model[k] for k in keys)
        assert sum(run.size for run in found.runs(prefix)) == len(listed(found, prefix))
        assert len(found) == len(model)


def test_a_change_leaves_all_blocks_but_its_own_joined() -> None:
    found = Blocks()
    for number in range(10 * blocks.SIZE):
        found.put(item(f"/a/{number:05}"))
    before = [run.joined for run in found.runs("/a/")]
    found.put(item("/a/00700", b'{"new":1}'))
    after = [run.joined for run in found.runs("/a/")]
    changed = [old is not new for old, new in zip(before, after, strict=True)]
    assert sum(changed) == 1


def test_what_is_kept_joined_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "KEPT", 100_000)
    found = Blocks()
    for number in range(2_000):
        found.put(item(f"/a/{number:05}", b"x" * 100))
    runs = found.runs("/a/")
    assert 0 < sum(run.size for run in runs if run.joined is not None) <= 100_000
    assert listed(found, "/a/") == (b"," + b"x" * 100) * 2_000
    # An item that changes makes room for its block, and no more.
    for number in range(0, 2_000, 7):
        found.put(item(f"/a/{number:05}", b"y" * 100))
        runs = found.runs("/a/")
        assert sum(run.size for run in runs if run.joined is not None) <= 100_000
