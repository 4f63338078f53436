"""Judge a run: linearizable for each key, and every watch without gap or double. Pure.

An empty list means that nothing is wrong. Each violation begins with its name.
"""

from tests.faults import log, order, streams, writes
from tests.faults.history import History


def violations(history: History) -> list[str]:
    """All that the history has against the server, what explains the most first."""
    made = log.build(history.streams, history.end)
    places = writes.standing(made, history.operations)
    floors, found = order.floors(made, history, places)
    return [
        *(problem for stream in history.streams for problem in streams.expired(stream)),
        *writes.problems(made, history.operations, places, floors),
        *found,
        *order.lists(made, history.operations, history.end),
        *(
            problem
            for stream in history.streams
            for problem in streams.problems(made, stream, history.end)
        ),
    ]
