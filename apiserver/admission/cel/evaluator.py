"""Evaluate expressions in processes of their own, and answer what they ask of the authorizer."""

import asyncio
import contextlib
import sys
from asyncio import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import structlog

from apiserver.admission.cel.job import LENGTH, SHORTEST, SPENT, Task, exceeded, numbered
from apiserver.admission.cel.turns import Turns
from apiserver.api import selectors, status
from apiserver.auth.attributes import Attributes
from apiserver.auth.authorize import Authorizer, Undecided
from apiserver.auth.user import User

WORKERS = 2  # at once: who writes something costly must not hold up all others
SECONDS = 1.0  # of processor time for a write; upstream's budget is meant to be about as much
LARGEST = 32 << 20  # bytes of a job: what it is about may have many parameters
DEATHS = 8  # of processes, by a job: each halves what the next may take
ROUNDS = 8  # checks that depend on the answers of others
ATTEMPTS = 2
LONGEST = 20.0  # seconds, for a machine that is busy: the processor's time is what counts
REPORTED = 1000  # expressions that do not compile
LOGGED = 200  # characters of one
MODULE = "apiserver.admission.cel.worker"

log = structlog.get_logger()

Json = dict[str, Any]
Requirements = tuple[selectors.Requirement, ...]


class Failed(Exception):
    """Nothing could be evaluated at all."""


class Result(NamedTuple):
    """A scalar of JSON, or the name of another type in a list; `error` where there is no value."""

    value: Any = None
    error: str = ""


class Outcome(NamedTuple):
    """Of a task. `results` are those of its expressions; none where a condition was not true."""

    conditions: list[Result]
    results: list[Result]


class Budget:
    """What one write has left, in seconds of processor time."""

    def __init__(self) -> None:
        self.left = SECONDS


class Evaluator:
    """Starts its processes when the first expression is met."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._turns = Turns(WORKERS)
        self._idle: list[subprocess.Process] = []
        self._reported: set[str] = set()

    async def evaluate(
        self,
        tasks: Sequence[Task],
        variables: Json,
        user: User,
        budget: Budget,
        *,
        params: Sequence[Any] = (),
    ) -> list[Outcome]:
        """In their order. `Failed`; 429 where too much waits already.

        `user` is who is asked about by the authorizer's checks, and whose turn it is.
        """
        if not tasks:
            return []
        job = _Job(tasks, {"variables": variables, "params": params})
        for _ in range(ROUNDS):
            if budget.left >= SHORTEST:
                await self._work(job, user, budget)
            if not job.asked:
                self._report(job)
                return job.outcomes()
            answers = await asyncio.gather(*(self._check(user, text) for text in job.questions()))
            job.answer(answers)
        raise Failed(f"authorization checks depend on one another more than {ROUNDS} times")

    async def close(self) -> None:
        for process in self._idle:
            await _end(process)

    def _report(self, job: "_Job") -> None:
        for expression, result in job.uncompiled():
            if expression not in self._reported:
                if len(self._reported) < REPORTED:
                    self._reported.add(expression)
                log.error(
                    "an expression does not compile; it is an error of whoever uses it",
                    expression=expression[:LOGGED],
                    error=result["error"],
                    reason="BadExpression",
                )

    async def _work(self, job: "_Job", user: User, budget: Budget) -> None:
        who = flow(user.name)
        async with self._turns.take(who, lambda: len(job.encoded())):
            before, data = budget.left, job.encoded()
            if len(data) > LARGEST:
                raise Failed(f"what is to be judged is larger than {LARGEST} bytes")
            try:
                await self._tried(job, data, budget)
            finally:
                self._turns.charge(who, before - budget.left)

    async def _tried(self, job: "_Job", data: bytes, budget: Budget) -> None:
        """`Failed`."""
        for _ in range(ATTEMPTS):
            process = await self._process()
            try:
                async with asyncio.timeout(LONGEST):
                    await _exchange(process, job, data, budget)
            except Failed:
                self._idle.append(process)
                raise
            # uvloop has a RuntimeError for a process that is gone.
            except (asyncio.IncompleteReadError, OSError, RuntimeError, ValueError) as error:
                await _end(process)
                log.error(
                    "an evaluation was ended", ended=process.returncode, reason="EvaluationEnded"
                )
                if isinstance(error, TimeoutError):
                    break
                # Another's doing, perhaps while it waited, is no fault of an expression.
            except BaseException:
                await _end(process)  # its answer would be taken for that to the next job
                raise
            else:
                self._idle.append(process)
                return
        raise Failed(SPENT)

    async def _process(self) -> subprocess.Process:
        """One that waits for a job."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            await _end(process)
        return await _start()

    async def _check(self, user: User, text: str) -> Json:
        """The decision to a question of `checks`."""
        question = orjson.loads(text)
        if account := question.get("account"):
            user = _service_account(*account)
        try:
            decision = await self._authorizer.authorize(user, _attributes(question))
        except Undecided as error:
            return {"allowed": False, "errored": True, "reason": "", "error": str(error)}
        return {
            "allowed": decision.allowed,
            "errored": False,
            "reason": decision.reason,
            "error": "",
        }


def _attributes(question: Mapping[str, str]) -> Attributes:
    if "path" in question:
        return Attributes(question["verb"].lower(), path=question["path"])
    return Attributes(
        verb=question["verb"],
        namespace=question.get("namespace", ""),
        group=question["group"],
        version="*",
        resource=question["resource"],
        subresource=question.get("subresource", ""),
        name=question.get("name", ""),
        fields=_required(selectors.requirements_of_fields, question.get("fieldSelector", "")),
        labels=_required(_labels, question.get("labelSelector", "")),
    )


def _labels(text: str) -> Requirements:
    return tuple(sorted(selectors.parse_labels(text).requirements))


def _required(parse: Callable[[str], Requirements], text: str) -> Requirements:
    """Nothing where it cannot be read, as upstream."""
    with contextlib.suppress(status.StatusError):
        return parse(text) if text else ()
    return ()


def _service_account(namespace: str, name: str) -> User:
    """k8s.io/apiserver `pkg/authentication/serviceaccount/util.go`."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    return User(f"system:serviceaccount:{namespace}:{name}", groups=groups)


async def _start() -> subprocess.Process:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},  # no secret of the server is its business
            start_new_session=True,  # a Ctrl-C is the server's
        )
    except OSError as error:
        raise Failed(f"no process can be started to evaluate in: {error}") from error
    try:
        async with asyncio.timeout(LONGEST):
            await _receive(process)
    except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
        await _end(process)
        raise Failed("the process to evaluate in does not start") from error
    except BaseException:
        await _end(process)
        raise
    return process


async def _exchange(process: subprocess.Process, job: "_Job", data: bytes, budget: Budget) -> None:
    """`Failed` where it cannot be read."""
    assert process.stdin is not None
    for _ in range(DEATHS):
        head = job.head(budget.left)
        process.stdin.write(LENGTH.pack(len(head)) + head + LENGTH.pack(len(data)))
        process.stdin.write(data)
        await process.stdin.drain()
        while True:
            told: Json = orjson.loads(await _receive(process))
            budget.left -= told.get("used", 0.0)
            if "died" in told:
                break
            job.known |= told["results"]
            if "asked" in told:
                job.asked = told["asked"]
                return
        if told["died"] < 0:
            raise Failed(SPENT)
        expression = job.give_up(told["died"])
        log.warning(
            "an expression takes too much", expression=expression[:LOGGED], used=told["used"]
        )
        if budget.left < SHORTEST:
            return


async def _receive(process: subprocess.Process) -> bytes:
    assert process.stdout is not None
    size = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
    return await process.stdout.readexactly(size)


async def _end(process: subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # and with it its child, which evaluates
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
        with contextlib.suppress(OSError, RuntimeError):
            await process.stdin.wait_closed()


def flow(user: str) -> str:
    """Who has a turn: whoever may make service accounts in a namespace has one with all of them."""
    parts = user.split(":")
    return ":".join(parts[:3]) if parts[:2] == ["system", "serviceaccount"] else user


class _Job:
    """What is known of the results, by step, and which `asked` something, by task."""

    def __init__(self, tasks: Sequence[Task], found: Json) -> None:
        self.known: dict[str, Json] = {}
        self.asked: dict[str, list[str]] = {}
        self._tasks = tasks
        self._found = found
        self._given_up: set[str] = set()
        self._answers: dict[str, Json] = {}

    def encoded(self) -> bytes:
        """`Failed`."""
        try:
            return orjson.dumps(self._found)
        except TypeError as error:
            raise Failed(str(error)) from error

    def head(self, seconds: float) -> bytes:
        head = {
            "tasks": [tuple(task) for task in self._tasks],
            "answers": self._answers,
            "known": self.known,
            "seconds": seconds,
        }
        return orjson.dumps(head)

    def give_up(self, step: int) -> str:
        """The expression of the step, which has an error from here on."""
        first, task = [found for found in numbered(self._tasks) if found[0] <= step][-1]
        composed = (expression for _, expression in task.composed)
        expression = [*task.conditions, *task.expressions, *composed][step - first]
        self.known[str(step)] = {"error": exceeded(expression)}
        self._given_up.add(str(step))
        return expression

    def questions(self) -> list[str]:
        return list(dict.fromkeys(text for asked in self.asked.values() for text in asked))

    def answer(self, answers: Sequence[Json]) -> None:
        """What asked is evaluated once more."""
        self._answers |= zip(self.questions(), answers, strict=True)
        for number, (first, task) in enumerate(numbered(self._tasks)):
            if str(number) in self.asked:
                for step in range(first, first + len(task.conditions) + len(task.expressions)):
                    if str(step) not in self._given_up:
                        self.known.pop(str(step), None)
        self.asked = {}

    def uncompiled(self) -> Iterator[tuple[str, Json]]:
        for first, task in numbered(self._tasks):
            for step, expression in enumerate((*task.conditions, *task.expressions), first):
                found = self.known.get(str(step), {})
                if not found.get("compiled", True):
                    yield expression, found

    def outcomes(self) -> list[Outcome]:
        """What there was no time for has an error."""

        def result(step: int) -> Result:
            found = self.known.get(str(step), {"error": SPENT})
            return Result(found.get("value"), found.get("error", ""))

        made = []
        for first, task in numbered(self._tasks):
            then = first + len(task.conditions)
            conditions = [result(step) for step in range(first, then)]
            hold = all(found.value is True for found in conditions)
            steps = range(then, then + len(task.expressions)) if hold else ()
            made.append(Outcome(conditions, [result(step) for step in steps]))
        return made
