"""The process that evaluates: `python -m apiserver.admission.cel.worker`.

It reads jobs and writes answers, each JSON behind its length. It is ended by the kernel when a job
takes more than its share of the processor, and by itself when the server is gone.
"""

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

import orjson

from apiserver.admission.cel import library, values
from apiserver.admission.cel.checks import Checks
from apiserver.admission.cel.environment import Environment, Failed

SECONDS = 1.0  # of processor time for a job; upstream's budget is meant to be about as much
MEMORY = 256 << 20  # bytes above what it starts with: two objects of 3 MiB take a tenth of it
LENGTH = struct.Struct(">I")
FIRST_TO_GO = "1000"  # for the kernel, when memory runs out

Json = dict[str, Any]


def main() -> None:
    checks = Checks()
    environment = Environment((*library.FUNCTIONS, *values.FUNCTIONS, *checks.functions()))
    _confine()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    _write(sink, {})  # it is ready
    while (data := _read(source)) is not None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = work(environment, checks, orjson.loads(data))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(sink, answer)


def work(environment: Environment, checks: Checks, job: Json) -> Json:
    """The results of the job's expressions, and the checks that were without an answer.

    `composed` are a policy's variables: each sees those before it, and fails whoever uses it where
    it fails itself.
    """
    checks.begin(job["answers"])
    composed: Json = {}
    failed: dict[str, str] = {}
    variables = {**job["variables"], "variables": composed}
    for name, expression in job["composed"]:
        try:
            composed[name] = _variable(
                environment.run(expression, environment.activation(variables))
            )
        except (Failed, TypeError) as failure:
            failed[name] = str(failure)
    activation = environment.activation(variables)
    results = [environment.evaluate(expression, activation) for expression in job["expressions"]]
    for result in results:
        for name, why in failed.items():
            if result.get("error", "").endswith(f"no such key: {name}"):
                result["error"] = f'composited variable "{name}" fails to evaluate: {why}'
    return {"results": results, "asked": checks.asked}


def _variable(found: Any) -> Any:
    """`TypeError` for what the runtime gives and does not take: times and bytes."""
    value = found.plain_value()
    json.dumps(value)
    return value


def _read(source: BinaryIO) -> bytes | None:
    """None at the end."""
    head = source.read(LENGTH.size)
    return source.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def _write(sink: BinaryIO, answer: Json) -> None:
    data = orjson.dumps(answer)
    sink.write(LENGTH.pack(len(data)) + data)
    sink.flush()


def _confine() -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(FIRST_TO_GO)


if __name__ == "__main__":
    main()
