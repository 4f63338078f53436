"""What the server and the process that evaluates tell each other; both load it. Pure.

A job is a list of tasks about the same variables. Each expression of it is a step with a number, by
which the results are told: those that are known when a process is ended need not be found again.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

LENGTH = struct.Struct(">I")  # of what follows it in the pipes
SHORTEST = 0.01  # seconds of the processor's time: with less left nothing is begun
SPENT = (
    "validation failed due to running out of cost budget, no further validation rules will be run"
)

Json = dict[str, Any]
Composed = Sequence[tuple[str, str]]


class Task(NamedTuple):
    """`expressions` are evaluated where all `conditions` are true.

    `composed` are a policy's variables, which they find in `variables`. `params` is the position of
    its parameters among those of the job; -1 where expressions know none.
    """

    conditions: Sequence[str] = ()
    expressions: Sequence[str] = ()
    composed: Composed = ()
    params: int = -1


def numbered(tasks: Iterable[Task]) -> Iterator[tuple[int, Task]]:
    """Each with the number of its first step: conditions, expressions, composed variables."""
    first = 0
    for task in tasks:
        yield first, task
        first += len(task.conditions) + len(task.expressions) + len(task.composed)


def exceeded(expression: str) -> str:
    """The error of one that takes too much, in upstream's words."""
    return (
        f"expression '{expression}' resulted in error: operation cancelled:"
        " actual cost limit exceeded"
    )
