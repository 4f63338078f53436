"""The cases by topic. Each topic is a function `(folder, scale) -> outcomes`."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from bench import engines
from bench.cases import creates, enforcing, joins, large, packets, reads, watches
from bench.pairs import Outcome
from bench.scale import Scale

Topic = Callable[[Path, Scale], Awaitable[list[Outcome]]]

# A topic `create-etcd` is one of those that `create` names.
TOPICS: Mapping[str, Topic] = {
    **{f"create-{name}": partial(creates.creates, name) for name in engines.NAMES},
    "read": reads.reads,
    "watch": watches.watches,
    "large": large.large,
    "enforcer-packets": packets.packets,
    "enforcer-join": joins.joins,
    "enforcer-changes": enforcing.enforcing,
}


def chosen(words: str) -> list[str]:
    """The topics that words name, separated by commas; all for none. `ValueError`."""
    if not words:
        return list(TOPICS)
    found = []
    for word in words.split(","):
        named = [name for name in TOPICS if name == word or name.startswith(f"{word}-")]
        if not named:
            raise ValueError(f"there is no {word!r}; there are {', '.join(TOPICS)}")
        found += named
    return found
