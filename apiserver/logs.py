"""Structured logs: constant messages with fields, as text for people or JSON lines for machines."""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

# Who else hears of the lines that have a `reason`: what an operator should see in the cluster.
listeners: list[Callable[[Mapping[str, Any]], None]] = []


def _tell(logger: object, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if "reason" in line:
        for listener in listeners:
            listener(line)
    return line


def configure(form: str) -> None:
    """Send structlog, and warnings of the libraries, to standard error."""
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[structlog.typing.Processor] = [
        _tell,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        shared.append(structlog.processors.dict_tracebacks)
    structlog.configure(
        processors=[*shared, render],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s"
    )
