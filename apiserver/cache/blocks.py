"""Objects in the order of their keys, in blocks whose JSON is kept joined. Pure.

A change costs its own block, however many objects there are; a list is the blocks one after the
other. Code points sort as their UTF-8 bytes do, so this is the order of the store.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from apiserver.cache.object import Object

SIZE = 256  # objects of a block; twice as many are split
KEPT = 64 << 20  # bytes of JSON that are kept joined
AFTER_SLASH = "0"  # the character that follows the slash, which ends every prefix


@dataclass(frozen=True, slots=True)
class Run:
    """Some of a list's items: joined already, or to be joined when they are sent.

    `size` is the length of `encode`. A comma stands before each item.
    """

    items: Sequence[Object]
    joined: bytes | None
    size: int

    @classmethod
    def of(cls, items: Sequence[Object]) -> "Run":
        return cls(items, None, sum([len(item.data) for item in items]) + len(items))

    def encode(self) -> bytes:
        return _joined(self.items) if self.joined is None else self.joined


@dataclass(slots=True)
class _Block:
    keys: list[str] = field(default_factory=list)
    joined: bytes | None = None


class Blocks:
    """A mapping from keys to objects that can be read in order."""

    def __init__(self) -> None:
        self._objects: dict[str, Object] = {}
        self._blocks: list[_Block] = []
        self._firsts: list[str] = []  # the first key of each block
        self._kept = 0

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, key: str) -> Object:
        return self._objects[key]

    def get(self, key: str) -> Object | None:
        return self._objects.get(key)

    def put(self, item: Object) -> None:
        known = item.key in self._objects
        self._objects[item.key] = item
        if not self._blocks:
            self._blocks, self._firsts = [_Block()], [item.key]
        at = self._place(item.key)
        block = self._blocks[at]
        self._forget(block)
        if known:
            return
        insort(block.keys, item.key)
        self._firsts[at] = block.keys[0]
        if len(block.keys) > 2 * SIZE:
            rest = _Block(block.keys[SIZE:])
            del block.keys[SIZE:]
            self._blocks.insert(at + 1, rest)
            self._firsts.insert(at + 1, rest.keys[0])

    def pop(self, key: str) -> None:
        del self._objects[key]
        at = self._place(key)
        block = self._blocks[at]
        self._forget(block)
        del block.keys[bisect_left(block.keys, key)]
        if block.keys:
            self._firsts[at] = block.keys[0]
        else:
            del self._blocks[at], self._firsts[at]

    def about(self, prefix: str) -> int:
        """About how many `under` gives: as many as blocks of the average size have."""
        if not self._blocks:
            return 0
        blocks = bisect_left(self._firsts, _end(prefix)) - self._place(prefix)
        return blocks * len(self._objects) // len(self._blocks)

    def under(self, prefix: str) -> list[Object]:
        """The objects whose keys start with a prefix, which ends with a slash."""
        objects = self._objects
        return [objects[key] for _, keys in self._spans(prefix) for key in keys]

    def runs(self, prefix: str) -> list[Run]:
        """The same as JSON, to be sent in pieces."""
        runs = []
        for block, keys in self._spans(prefix):
            if block is not None and block.joined is not None:
                runs.append(Run((), block.joined, len(block.joined)))
                continue
            run = Run.of([self._objects[key] for key in keys])
            if block is not None and self._kept + run.size <= KEPT:
                block.joined = run.encode()
                self._kept += run.size
                run = Run((), block.joined, run.size)
            runs.append(run)
        return runs

    def _spans(self, prefix: str) -> Iterator[tuple[_Block | None, list[str]]]:
        """The keys under a prefix by blocks, each with its block where that is all of it."""
        end = _end(prefix)
        for block in self._blocks[self._place(prefix) if self._blocks else 0 :]:
            first, last = bisect_left(block.keys, prefix), bisect_left(block.keys, end)
            if last == len(block.keys) and not first:
                yield block, block.keys
            elif first < last:
                yield None, block.keys[first:last]
            elif block.keys[0] >= end:
                return

    def _place(self, key: str) -> int:
        """The block that has a key, or would get it."""
        return max(0, bisect_right(self._firsts, key) - 1)

    def _forget(self, block: _Block) -> None:
        if block.joined is not None:
            self._kept -= len(block.joined)
            block.joined = None


def _end(prefix: str) -> str:
    """The first key after all that start with a prefix."""
    return prefix[:-1] + AFTER_SLASH


def _joined(items: Sequence[Object]) -> bytes:
    return b",".join([b"", *[item.data for item in items]])
