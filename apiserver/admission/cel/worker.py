"""The process that evaluates: `python -m apiserver.admission.cel.worker`.

It keeps a child that reads jobs and writes what they come to, each JSON behind its length. The
child is ended by the kernel when an expression takes more than its share of the processor or of
memory; then it is told which, and the next child goes on from there. Both end with the server.
"""

import contextlib
import ctypes
import functools
import gc
import json
import mmap
import os
import re
import resource
import signal
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from apiserver.admission.cel import library, values
from apiserver.admission.cel.checks import Checks
from apiserver.admission.cel.environment import Environment, Failed
from apiserver.admission.cel.job import LENGTH, SHORTEST, SPENT, Composed, Task, exceeded, numbered

MEMORY = 256 << 20  # bytes above what it starts with: two objects of 3 MiB take a tenth of it
PR_SET_PDEATHSIG = 1
FIRST_TO_GO = "1000"  # for the kernel, when memory runs out
TOLD = 0.02  # seconds of the processor's time: what a process that is ended may lose
LONGEST = 16 << 10  # characters of a text: more than any use of one takes
READING = -1  # in the place of a step
DOING = struct.Struct("di")  # when the job began, in its processor time, and its step

Json = dict[str, Any]


def main() -> None:
    checks = Checks()
    environment = Environment((*library.FUNCTIONS, *values.FUNCTIONS, *checks.functions()))
    _confine()
    gc.freeze()  # so that memory stays shared with the children
    doing = mmap.mmap(-1, DOING.size)  # the child's, read when it is gone
    _write({})  # it is ready
    while True:
        child = os.fork()
        if child == 0:
            _end_with_parent()
            serve(environment, checks, doing)
            os._exit(0)
        _, code, usage = os.wait4(child, 0)
        if code == 0:
            return
        if os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)  # no expression's fault: it is tried once more
        began, step = DOING.unpack(doing[:])
        _write({"died": step, "used": usage.ru_utime + usage.ru_stime - began})


def serve(environment: Environment, checks: Checks, doing: mmap.mmap) -> None:
    while (head := _read()) is not None:
        data = _read() or b"{}"
        Job(environment, checks, doing, orjson.loads(head)).run(data)


class Job:
    """`known` are results by step, as a process that was ended has left them."""

    def __init__(
        self, environment: Environment, checks: Checks, doing: mmap.mmap, head: Json
    ) -> None:
        self._environment = environment
        self._checks = checks
        self._doing = doing
        self._answers: Mapping[str, Json] = head["answers"]
        self._tasks = [Task(*task) for task in head["tasks"]]
        self._known: Json = head["known"]
        self._seconds: float = head["seconds"]
        self._began = time.thread_time()  # that of the process is of the last tick
        self._told = self._began
        self._results: Json = {}

    def run(self, data: bytes) -> None:
        self._begin(READING, self._seconds)
        found = orjson.loads(data)
        self._activation = self._environment.activation(found["variables"])
        self._parameters: list[Any] = found["params"]
        asked: dict[str, list[str]] = {}
        for number, (first, task) in enumerate(numbered(self._tasks)):
            self._checks.begin(self._answers)
            self._task(first, task)
            if self._checks.asked:
                asked[str(number)] = self._checks.asked
        self._tell(asked=asked, used=time.thread_time() - self._began)

    def _task(self, first: int, task: Task) -> None:
        """What is told is told when it is final, and before it could be lost."""
        composed = _Composed(self, first + len(task.conditions) + len(task.expressions), task)
        self._environment.params = self._parameters[task.params] if task.params >= 0 else None
        hold = True
        for step, expression in enumerate(task.conditions, first):
            hold &= self._result(step, expression, task.params >= 0, {}).get("value") is True
            self._tell_in_time()
        if not hold:
            return
        bound = task.params >= 0 or bool(task.composed)
        for step, expression in enumerate(task.expressions, first + len(task.conditions)):
            if str(step) not in self._known:
                found = composed.used(expression)
                result = self._result(step, expression, bound, found)
                for name, why in composed.failed.items():
                    if result.get("error", "").endswith(f"no such key: {name}"):
                        result["error"] = f'composited variable "{name}" fails to evaluate: {why}'
                self._tell_in_time()

    def value(self, step: int, expression: str, variables: Json) -> Any:
        """Of a composed variable. `Failed`; `TypeError` for times and bytes, which come as such."""
        if known := self._known.get(str(step)):
            raise Failed(known["error"])
        return self._run(step, expression, True, variables, _json)

    def _result(self, step: int, expression: str, bound: bool, variables: Json) -> Json:
        if known := self._known.get(str(step)):
            return dict(known)
        try:
            result: Json = {"value": self._run(step, expression, bound, variables, _plain)}
        except Failed as failure:
            result = {"error": str(failure)[:LONGEST], "compiled": failure.compiled}
        self._results[str(step)] = result
        return result

    def _run(
        self,
        step: int,
        expression: str,
        bound: bool,
        variables: Json,
        take: Callable[[Any], Any],
    ) -> Any:
        self._begin(step, 0)
        compiling = time.thread_time()
        program = self._environment.program(expression, bound=bound)
        # It is done once and kept, and no matter of what is judged.
        self._began += time.thread_time() - compiling
        left = self._seconds - (time.thread_time() - self._began)
        if left < SHORTEST:
            raise Failed(SPENT)
        # Half of what is left: what comes after one that takes too much has its share as well.
        self._begin(step, max(left / 2, SHORTEST))
        self._environment.variables = variables
        try:
            return take(self._environment.run(program, expression, self._activation))
        except MemoryError:
            raise Failed(exceeded(expression)) from None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _begin(self, step: int, seconds: float) -> None:
        self._doing[:] = DOING.pack(self._began, step)
        signal.setitimer(signal.ITIMER_PROF, seconds)

    def _tell_in_time(self) -> None:
        if time.thread_time() > self._told + TOLD:
            self._tell()

    def _tell(self, **more: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write({"results": self._results, **more})
        self._results, self._told = {}, time.thread_time()


class _Composed:
    """A policy's variables: each is evaluated when the first expression uses it, and once.

    One sees those before it, and fails whoever uses it where it fails itself.
    """

    def __init__(self, job: Job, first: int, task: Task) -> None:
        self.failed: dict[str, str] = {}
        self._job = job
        self._first = first
        self._composed: Composed = task.composed
        self._values: Json = {}

    def used(self, expression: str, before: int | None = None) -> Json:
        names, found = _names(expression), {}
        for position, (name, text) in enumerate(self._composed[:before]):
            if name not in names:
                continue
            if name not in self._values and name not in self.failed:
                needed = self.used(text, position)
                try:
                    self._values[name] = self._job.value(self._first + position, text, needed)
                except (Failed, TypeError) as failure:
                    self.failed[name] = str(failure)
            if name in self._values:
                found[name] = self._values[name]
        return found


@functools.lru_cache(4096)
def _names(expression: str) -> frozenset[str]:
    """What could be the name of a variable in it, or more."""
    return frozenset(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", expression))


def _json(found: Any) -> Any:
    """`TypeError` for what it is not."""
    value = found.plain_value()
    json.dumps(value)
    return value


def _plain(found: Any) -> Any:
    """A scalar of JSON; of anything else the name of its type, in a list."""
    value = found.plain_value()
    if isinstance(value, str):
        return value[:LONGEST]
    if value is None or isinstance(value, bool | int | float):
        return value
    return [found.type().name()]


def _read() -> bytes | None:
    """None at the end. Nothing is read ahead: it is for another process."""
    head = _taken(LENGTH.size)
    return None if head is None else _taken(LENGTH.unpack(head)[0])


def _taken(size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(answer: Json) -> None:
    data = orjson.dumps(answer)
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(1, data) :]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
