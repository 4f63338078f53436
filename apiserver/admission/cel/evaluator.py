"""Evaluate expressions in processes of their own, and answer what they ask of the authorizer."""

import asyncio
import contextlib
import signal
import struct
import sys
from asyncio import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import structlog

from apiserver.api import selectors, status
from apiserver.auth.attributes import Attributes
from apiserver.auth.authorize import Authorizer, Undecided
from apiserver.auth.user import User

WORKERS = 2  # at once: who writes something costly must not hold up all others
ROUNDS = 8  # checks that depend on the answers of others
ATTEMPTS = 2
LONGEST = 20.0  # seconds, for a machine that is busy: the processor's time is what counts
REPORTED = 1000  # expressions that do not compile
LOGGED = 200  # characters of one
LENGTH = struct.Struct(">I")
MODULE = "apiserver.admission.cel.worker"

log = structlog.get_logger()

Json = dict[str, Any]
Composed = Sequence[tuple[str, str]]
Requirements = tuple[selectors.Requirement, ...]


class Failed(Exception):
    """Nothing could be evaluated at all."""


class Result(NamedTuple):
    """A scalar of JSON, or the name of another type in a list; `error` where there is no value."""

    value: Any = None
    error: str = ""


class Evaluator:
    """Starts its processes when the first expression is met."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._free = asyncio.Semaphore(WORKERS)
        self._idle: list[subprocess.Process] = []
        self._reported: set[str] = set()

    async def evaluate(
        self,
        expressions: Sequence[str],
        variables: Json,
        user: User,
        *,
        composed: Composed = (),
    ) -> list[Result]:
        """In their order; `composed` are named expressions that they find in `variables`. `Failed`.

        `user` is who is asked about by the authorizer's checks.
        """
        answers: dict[str, Json] = {}
        for _ in range(ROUNDS):
            job = {
                "expressions": expressions,
                "variables": variables,
                "composed": composed,
                "answers": answers,
            }
            found = await self._work(job)
            if not found["asked"]:
                return self._results(expressions, found["results"])
            asked = await asyncio.gather(*(self._check(user, text) for text in found["asked"]))
            answers |= zip(found["asked"], asked, strict=True)
        raise Failed(f"authorization checks depend on one another more than {ROUNDS} times")

    async def close(self) -> None:
        for process in self._idle:
            await _end(process)

    def _results(self, expressions: Sequence[str], found: Sequence[Json]) -> list[Result]:
        for expression, result in zip(expressions, found, strict=True):
            if not result.get("compiled", True) and expression not in self._reported:
                if len(self._reported) < REPORTED:
                    self._reported.add(expression)
                log.error(
                    "an expression does not compile; it is an error of whoever uses it",
                    expression=expression[:LOGGED],
                    error=result["error"],
                    reason="BadExpression",
                )
        return [Result(item.get("value"), item.get("error", "")) for item in found]

    async def _work(self, job: Json) -> Json:
        try:
            data = orjson.dumps(job)
        except TypeError as error:
            raise Failed(str(error)) from error
        async with self._free:
            for _ in range(ATTEMPTS):
                process = await self._process()
                try:
                    async with asyncio.timeout(LONGEST):
                        found = await _exchange(process, data)
                    self._idle.append(process)
                    return found
                except (asyncio.IncompleteReadError, OSError) as error:
                    late = isinstance(error, TimeoutError)
                    await _end(process, kill=late)
                    log.error(
                        "an evaluation was ended",
                        ended=process.returncode,
                        reason="EvaluationEnded",
                    )
                    # Another's doing, perhaps while it waited, is no fault of the expression.
                    if late or process.returncode != -signal.SIGKILL:
                        break
                except BaseException:
                    await _end(process)  # its answer would be taken for that to the next job
                    raise
        raise Failed(
            "validation failed due to running out of cost budget, no further validation rules"
            " will be run"
        )

    async def _process(self) -> subprocess.Process:
        """One that waits for a job."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
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
    except (OSError, asyncio.IncompleteReadError) as error:
        await _end(process)
        raise Failed("the process to evaluate in does not start") from error
    except BaseException:
        await _end(process)
        raise
    return process


async def _exchange(process: subprocess.Process, data: bytes) -> Json:
    assert process.stdin is not None
    process.stdin.write(LENGTH.pack(len(data)) + data)
    await process.stdin.drain()
    found: Json = orjson.loads(await _receive(process))
    return found


async def _receive(process: subprocess.Process) -> bytes:
    assert process.stdout is not None
    size = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
    return await process.stdout.readexactly(size)


async def _end(process: subprocess.Process, *, kill: bool = True) -> None:
    """One that ends by itself is sent no signal: it would be lost how it ended."""
    if kill:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
        with contextlib.suppress(OSError):
            await process.stdin.wait_closed()
