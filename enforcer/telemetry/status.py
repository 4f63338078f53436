"""What this enforcer does and knows, in plain values. Pure.

The sync loop tells a `Status` what happens, in the loop's own thread; `checks`, `document` and
`metrics` read it when somebody asks. Nothing here waits, and nothing is decided.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from enforcer.telemetry.backlog import Backlog
from enforcer.telemetry.tally import Tally

RESOURCES = ("namespaces", "pods", "networkpolicys")
BYPASSED = "bypassed"  # the severity of a finding by which packets pass the filter unjudged


class Finding(Protocol):
    """Something on this host by which packets could pass the filter."""

    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def severity(self) -> str: ...


class Outcome(Protocol):
    """What a probe of the canary came to; `text` is one line for people."""

    @property
    def enforced(self) -> bool: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Source:
    """How one resource is followed. `since` is when `ok` became so, in seconds of the epoch."""

    resource: str
    server: str
    ok: bool
    error: str
    since: float


@dataclass(frozen=True, slots=True)
class Enforced:
    """What the kernel holds. `since` is when it first held this digest, seconds of the epoch.

    `classes` is -1 where it was not told.
    """

    revisions: Mapping[str, str]
    since: float
    digest: str
    pods: int
    policies: int
    elements: int
    classes: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The last transaction; `at` is its end. `enforce` is None where no event led to it."""

    at: float
    watch: float
    compute: float
    commit: float
    enforce: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """`attempts` have failed one after the other. `over` is set by the commit that succeeds."""

    error: str
    at: float
    attempts: int
    over: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """What the canary's last probe came to; `ok` is None where no canary is used."""

    ok: bool | None
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Repair:
    """Something of the table was changed by another process, and put right."""

    pid: int
    program: str
    what: str
    at: float


@dataclass(frozen=True, slots=True)
class Verification:
    """The kernel compared with what it should hold."""

    ok: bool
    differences: tuple[str, ...]
    at: float


@dataclass(slots=True)
class Counts:
    """Since the start of the process. Times in seconds."""

    watch: Tally = field(default_factory=Tally)
    compute: Tally = field(default_factory=Tally)
    commit: Tally = field(default_factory=Tally)
    enforce: Tally = field(default_factory=Tally)
    commits: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys(("success", "unchanged", "error"), 0))
    )
    changed: int = 0
    repairs: int = 0
    verifications: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys(("ok", "different"), 0))
    )


class Status:
    """Told by the methods, read by the attributes.

    A resource may be named by its plural or by its path. `clock` gives seconds of the epoch,
    `monotonic` seconds that no clock's correction disturbs.
    """

    def __init__(
        self,
        *,
        node: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self.clock = clock
        self.monotonic = monotonic
        self.started = clock()
        self.listed: set[str] = set()
        self.complete = False  # a ruleset made of all three lists is in the kernel
        self.restored_from: float | None = None
        self.revisions: dict[str, str] = {}
        self.sources: dict[str, Source] = {}
        self.enforced: Enforced | None = None
        self.last_commit: Commit | None = None
        self.failure: Failure | None = None
        self.committing_since: float | None = None  # monotonic
        self.turned: float = monotonic()  # when the sync loop last began or ended an attempt
        self.invalid_policies: dict[tuple[str, str], str] = {}
        self.address_conflicts: dict[str, tuple[str, ...]] = {}
        self.findings: tuple[Finding, ...] = ()
        self.probe: Probe | None = None
        self.last_repair: Repair | None = None
        self.last_verification: Verification | None = None
        self.differences: tuple[str, ...] = ()  # found and not put right yet
        self.table_name = ""
        self.table_flags: tuple[str, ...] = ()
        self.counts = Counts()
        self._backlog = Backlog()

    def synced(self, resource: str) -> None:
        """A resource has been listed for the first time."""
        self.listed.add(_plural(resource))

    def restored(self, saved: float) -> None:
        """Until everything is listed, the state saved at `saved` (epoch) is what is enforced."""
        self.restored_from = saved

    def heard(self, resource: str, revision: str) -> None:
        """A list, an event or a bookmark of that revision arrived."""
        name = _plural(resource)
        if revision != self.revisions.get(name):
            self.revisions[name] = revision
            self._backlog.heard(name, revision, self.monotonic())

    def following(
        self,
        resource: str,
        ok: bool,
        error: str = "",
        since: float | None = None,
        *,
        server: str = "",
    ) -> None:
        """A resource's server answers, or does not. `since` in seconds of the epoch, default now.

        A state that goes on keeps its time, and a server that is left out the last one.
        """
        name = _plural(resource)
        last = self.sources.get(name)
        if since is None:
            since = last.since if last is not None and last.ok == ok else self.clock()
        server = server or (last.server if last is not None else "")
        self.sources[name] = Source(name, server, ok, error, since)

    def committing(self) -> None:
        """An attempt to make the kernel equal to the model begins.

        `committed`, `unchanged` or `commit_failed` ends it.
        """
        self.committing_since = self.turned = self.monotonic()

    def committed(
        self,
        revisions: Mapping[str, str],
        *,
        digest: str,
        pods: int,
        policies: int,
        elements: int,
        compute_seconds: float,
        commit_seconds: float | None,
        oldest_event_seconds: float | None,
        changed: int = 0,
        classes: int = -1,
    ) -> None:
        """The kernel holds the ruleset made of these revisions.

        `elements` are in the table now, `changed` were added, removed or repointed.
        `commit_seconds` is None where nothing had to be changed. `oldest_event_seconds` is the
        time from the arrival of the oldest event that this enforces to the end of the commit;
        what compute and commit leave of it is the stage `watch`.
        """
        now = self.clock()
        last = self.enforced
        since = last.since if last is not None and last.digest == digest else now
        named = {_plural(resource): revision for resource, revision in revisions.items()}
        self.enforced = Enforced(named, since, digest, pods, policies, elements, classes)
        self.counts.compute.add(compute_seconds)
        if commit_seconds is None:
            self.counts.commits["unchanged"] += 1
        else:
            self._count(now, compute_seconds, commit_seconds, oldest_event_seconds)
            self.counts.changed += changed
        self._turn(named)

    def unchanged(self, revisions: Mapping[str, str]) -> None:
        """What was heard up to these revisions changes no ruleset: it is enforced as it is."""
        named = {_plural(resource): revision for resource, revision in revisions.items()}
        if self.enforced is not None:
            self.enforced = replace(self.enforced, revisions={**self.enforced.revisions, **named})
        self._turn(named)

    def commit_failed(self, error: str) -> None:
        """The old state stays; the change waits for the next attempt."""
        last = self.failure
        attempts = last.attempts + 1 if last is not None and not last.over else 1
        self.failure = Failure(error, self.clock(), attempts)
        self.counts.commits["error"] += 1
        self.committing_since, self.turned = None, self.monotonic()

    def invalid(self, policies: Mapping[str, str]) -> None:
        """All policies that are wrong, `namespace/name` to the errors; they grant nothing."""
        self.invalid_policies = {
            (namespace, name): text
            for key, text in policies.items()
            for namespace, _, name in (key.partition("/"),)
        }

    def conflicts(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """All addresses that several pods claim, with those pods; the first one has it."""
        self.address_conflicts = {address: tuple(pods) for address, pods in addresses.items()}

    def bypass(self, findings: Sequence[Finding]) -> None:
        """All that was found on this host."""
        self.findings = tuple(findings)

    def canary(self, outcome: Outcome | None, reason: str = "") -> None:
        """The last probe; None where no canary is used, with the reason why not."""
        ok, text = (None, "") if outcome is None else (outcome.enforced, outcome.text)
        self.probe = Probe(ok, reason or text, self.clock())

    def repaired(self, pid: int, program: str, what: str) -> None:
        """Another process had changed the table; now it is as it should be."""
        self.last_repair = Repair(pid, program, what, self.clock())
        self.counts.repairs += 1
        self.differences = ()

    def verified(self, ok: bool, differences: Sequence[str] = ()) -> None:
        """The kernel was compared with what it should hold."""
        self.last_verification = Verification(ok, tuple(differences), self.clock())
        self.counts.verifications["ok" if ok else "different"] += 1
        self.differences = () if ok else tuple(differences) or ("it differs",)

    def table(self, name: str, flags: Iterable[str]) -> None:
        """The table that is programmed; of its flags those of `owner` and `persist` that it has."""
        self.table_name, self.table_flags = name, tuple(flags)

    def pending_seconds(self) -> float | None:
        """The age of the oldest change that is not enforced; None where every one is."""
        oldest = self._backlog.oldest()
        return None if oldest is None else max(0.0, self.monotonic() - oldest)

    def away(self) -> list[Source]:
        """The sources that do not answer."""
        return [source for source in self.sources.values() if not source.ok]

    def bypassed(self) -> list[Finding]:
        """The findings by which packets pass unjudged."""
        return [finding for finding in self.findings if str(finding.severity) == BYPASSED]

    def _count(self, now: float, compute: float, commit: float, enforce: float | None) -> None:
        watch = 0.0 if enforce is None else max(0.0, enforce - compute - commit)
        self.counts.commits["success"] += 1
        self.counts.commit.add(commit)
        if enforce is not None:
            self.counts.watch.add(watch)
            self.counts.enforce.add(enforce)
        self.last_commit = Commit(now, watch, compute, commit, enforce)

    def _turn(self, revisions: Mapping[str, str]) -> None:
        """An attempt ended well."""
        if self.failure is not None:
            self.failure = replace(self.failure, over=True)
        if self.enforced is not None and self.listed.issuperset(RESOURCES):
            self.complete, self.restored_from = True, None
        for resource, revision in revisions.items():
            self._backlog.done(resource, revision)
        self.committing_since, self.turned = None, self.monotonic()


def _plural(resource: str) -> str:
    return resource.rpartition("/")[2]
