"""The writes of a soak: updates for the most part, and now and then a creation and a deletion.

Each source is for one connection and writes to objects of its own, so no two of its requests can
overtake each other and none conflicts. The number of objects stays as it was, but for one a source.
"""

from collections.abc import Iterator

from bench import connection, policies
from bench.writers import Request

NAMESPACE = "soaked"
ROUND = 20  # writes, of which one creates and another deletes what that made


def requests(url: str, names: list[str], source: int) -> Iterator[Request]:
    """Requests without end: each is one event, with other content than the one before."""
    path = policies.collection(NAMESPACE)
    turn = 0
    while True:
        extra = f"extra-{source:02}-{turn:07}"
        for step in range(ROUND):
            name = names[turn % len(names)]
            turn += 1
            if step == 0:
                yield policies.creation(url, NAMESPACE, extra)
            elif step == ROUND // 2:
                yield Request(connection.request("DELETE", url, f"{path}/{extra}"), 200)
            else:
                body = policies.policy(name, turn=turn)
                yield Request(connection.request("PUT", url, f"{path}/{name}", body), 200)


def shares(names: list[str], count: int) -> list[list[str]]:
    """The names dealt out to so many sources."""
    return [names[number::count] for number in range(count)]
