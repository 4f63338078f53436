"""Where audit events go: the log, the webhook, or both, and who waits for whom.

k8s.io/apiserver `pkg/server/options/audit.go`. `apiserver.main` opens them as the flags say, and
`apiserver.http.audit` writes to them.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from apiserver.audit import event
from apiserver.audit.log import Log
from apiserver.audit.loss import Loss
from apiserver.audit.rotation import RotatingFile, StandardOutput
from apiserver.settings import Settings

MEGABYTE = 1 << 20
SIZE = 100  # megabytes of a file of the log, as lumberjack takes 0

Mode = Literal["batch", "blocking", "blocking-strict"]


class Backend(Protocol):
    """Keeps events in the background; those it could not keep are its `loss`."""

    loss: Loss

    @property
    def plugin(self) -> str:
        """Its name in metrics."""

    def add(self, event: bytes, told: Callable[[bool], None] | None = None) -> None:
        """Never waits. `told` hears, from any thread, whether it is kept."""

    async def close(self) -> None:
        """Keep what waits, for some seconds at most."""


@dataclass(frozen=True, slots=True)
class Output:
    """A backend with the form of its events.

    In the mode `batch` no request waits; in `blocking` each waits until its events are kept, or
    lost; in `blocking-strict` one whose first event is lost is refused besides.
    """

    backend: Backend
    encode: Callable[[dict[str, Any]], bytes]
    mode: Mode = "batch"


def opened(settings: Settings, *, rand: random.Random) -> list[Output]:
    """What the flags name. `BadAccess`, `OSError`, `ValueError` of the webhook's kubeconfig.

    A webhook needs the event loop that runs.
    """
    found = []
    if (config := settings.audit_webhook_config_file) is not None:
        backend = _webhook(config, settings, rand)
        found.append(Output(backend, event.as_item, settings.audit_webhook_mode))
    if path := settings.audit_log_path:
        sink = StandardOutput() if path == "-" else RotatingFile(
            Path(path),
            size=(settings.audit_log_maxsize or SIZE) * MEGABYTE,
            age=settings.audit_log_maxage,
            backups=settings.audit_log_maxbackup,
            clock=time.time,
        )  # fmt: skip
        encode = event.as_legacy if settings.audit_log_format == "legacy" else event.as_json
        found.append(Output(Log(sink), encode, settings.audit_log_mode))
    return found


def _webhook(path: Path, settings: Settings, rand: random.Random) -> Backend:
    from apiserver.audit.webhook import Batching, Webhook  # and with it an HTTP client
    from apiserver.cluster.access import Access
    from apiserver.cluster.client import Cluster

    there = Cluster(Access.from_kubeconfig(path))
    batching = Batching(
        size=settings.audit_webhook_batch_max_size,
        wait=settings.audit_webhook_batch_max_wait,
        buffer=settings.audit_webhook_batch_buffer_size,
        backoff=settings.audit_webhook_initial_backoff,
    )
    return Webhook(there.deliver, batching, closed=there.close, rand=rand)
