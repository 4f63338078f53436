"""Work in a process of its own, asked through a pipe: a load must not run where it is measured."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Any

TIMEOUT = 120.0  # seconds without an answer after which a run is given up


class Aside:
    """A process that runs `work(pipe, *arguments)`. Use it as a context manager.

    `work` sends something once it is ready, and then an answer for all that it receives. Where it
    fails its trace is on stderr, and whoever waits for it gets a `RuntimeError`.
    """

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._theirs: Pipe | None = theirs
        self._process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        self._name = f"{work.__module__}.{work.__qualname__}"

    def __enter__(self) -> "Aside":
        self._process.start()
        try:
            if self._theirs is not None:
                self._theirs.close()  # so that its end is heard when the process ends
                self._theirs = None
            self.hear()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def ask(self, question: Any) -> Any:
        self.tell(question)
        return self.hear()

    def tell(self, question: Any) -> None:
        self._pipe.send(question)

    def hear(self) -> Any:
        """The next answer; `RuntimeError` where none comes."""
        if not self._pipe.poll(TIMEOUT):
            raise RuntimeError(f"{self._name} says nothing")
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self._name} has failed") from None

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
