"""Keep what is believed up to date: the files of the flags, and the cluster's ConfigMap."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from apiserver import files
from apiserver.auth.trust import CONFIG_MAP, CONFIG_NAMESPACE, Pool, Proxy, Trust
from apiserver.cluster.client import Cluster
from apiserver.cluster.informer import Informer

HINT = (
    f"after 403 the service account lacks a RoleBinding in {CONFIG_NAMESPACE} to the Role"
    " extension-apiserver-authentication-reader; --client-ca-file and"
    " --requestheader-client-ca-file can stand in for the ConfigMap"
)
PATH = f"/api/v1/namespaces/{CONFIG_NAMESPACE}/configmaps"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the flags say; `proxy` without its authorities, which are in a file."""

    client_ca_file: Path | None = None
    proxy_ca_file: Path | None = None
    proxy: Proxy = field(default_factory=Proxy)

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.client_ca_file, self.proxy_ca_file) if path]

    def read(self) -> Trust:
        """`OSError`, `ValueError` with the file's name."""
        authorities = _pool(self.proxy_ca_file)
        return Trust(_pool(self.client_ca_file), replace(self.proxy, authorities=authorities))


class TrustSource:
    """`now` is what is believed. `changed` is called whenever that is something else.

    With a `cluster` the ConfigMap supplies what the flags do not say. Until it has been read the
    source is not `ready`, unless `tolerant`: then only what needs it does not work.
    """

    def __init__(self, flags: Flags, *, cluster: Cluster | None, tolerant: bool = False) -> None:
        self._flags = flags
        self._given = flags.read()
        self._tolerant = tolerant
        self._published = Trust()
        self._seen: Mapping[str, Any] | None = None
        self._changed: list[Callable[[], None]] = []
        self.now = self._given
        self._informer: Informer | None = None
        if cluster is not None:
            self._informer = Informer(
                cluster,
                PATH,
                selector=f"metadata.name={CONFIG_MAP}",
                changed=self._read_published,
            )

    @property
    def ready(self) -> bool:
        return self._informer is None or self._tolerant or self._seen is not None

    def on_change(self, call: Callable[[], None]) -> None:
        self._changed.append(call)

    async def run(self) -> None:
        """For ever."""
        work = [files.follow(self._flags.paths, self._read_files, what="client authorities")]
        if self._informer is not None:
            work += [self._informer.run(), self._explain(self._informer)]
        await asyncio.gather(*work)

    async def _explain(self, informer: Informer) -> None:
        """Say what is missing, in words that tell what to type."""
        told = ""
        while True:
            await asyncio.sleep(1.0)
            problem = informer.failure
            if not problem and informer.synced and self._seen is None:
                problem = f"there is no ConfigMap {CONFIG_NAMESPACE}/{CONFIG_MAP}"
            if problem and problem != told:
                log.error(
                    f"unable to load the ConfigMap {CONFIG_NAMESPACE}/{CONFIG_MAP}, which tells"
                    " whose requests to believe; trying again",
                    error=problem,
                    hint=HINT,
                    reason="AuthenticationNotConfigured",
                )
            told = problem

    def _read_files(self) -> None:
        self._given = self._flags.read()
        self._tell()

    def _read_published(self) -> None:
        assert self._informer is not None
        found = self._informer.objects.get(f"{CONFIG_NAMESPACE}/{CONFIG_MAP}")
        if found is None:
            return  # what was believed stays, until it is there again
        try:
            self._published = Trust.published(found.get("data") or {})
        except ValueError as error:
            log.error(f"the ConfigMap {CONFIG_NAMESPACE}/{CONFIG_MAP} is bad", error=str(error))
            return
        self._seen = found
        self._tell()

    def _tell(self) -> None:
        now = self._given.over(self._published)
        if now != self.now:
            # First of all: whoever is not believed any more must not get in whatever else fails.
            self.now = now
            for call in self._changed:
                try:
                    call()
                except (OSError, ValueError) as error:
                    log.error(
                        "the serving certificate cannot be read; new authorities are asked for"
                        " when it can",
                        error=str(error),
                        reason="FailedReload",
                    )


def _pool(path: Path | None) -> Pool:
    if path is None:
        return Pool()
    try:
        pool = Pool.of(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not pool:
        raise ValueError(f"{path}: it holds no PEM certificate")
    return pool
