"""Follow a request through the stages of its audit, which the envelope calls out.

k8s.io/apiserver `pkg/endpoints/filters/audit.go` and `authn_audit.go`. Loaded only where there is
an audit policy. Bodies are kept only where the ruling needs them; what streams passes this by.
"""

import asyncio
import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import structlog
from prometheus_client.core import CounterMetricFamily, Metric
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import storage
from apiserver.api import duration, latency, protobuf, status
from apiserver.audit import event, policy
from apiserver.audit.event import Record
from apiserver.audit.outputs import Output
from apiserver.audit.policy import Policy, Ruling
from apiserver.auth.attributes import Attributes
from apiserver.auth.user import ALL_AUTHENTICATED, MASTERS, User
from apiserver.http import body, negotiation, responses
from apiserver.http.guard import attributes

# Whom kube-apiserver's insecure port took everybody for (`insecure_handler.go`).
UNSECURED = User("system:unsecured", groups=(MASTERS, ALL_AUTHENTICATED))
BODY_LIMIT = 10 << 20  # bytes of an answer that are kept, as upstream's --audit-log-truncate
GZIP = 31  # the window bits that make zlib expect gzip's header
DECISION = "authorization.k8s.io/decision"
REASON = "authorization.k8s.io/reason"
UNDECIDED = "internal error"  # the reason where nobody could say
LATENCY = "apiserver.latency.k8s.io/"
SLOW = 0.5  # seconds after which it is told where they went, as upstream
STARTS = {"http.response.start": 0, "websocket.accept": 101, "websocket.http.response.start": 0}
BODIES = ("http.response.body", "websocket.http.response.body")
FORESEEN = (status.StatusError, storage.Unavailable, ClientDisconnect)

log = structlog.get_logger()


class Pending(NamedTuple):
    """An event that a request waits for: whether it is kept, and must be."""

    kept: asyncio.Future[bool]
    strict: bool


class Auditor:
    """Judges requests and writes their events. Where there are no users, each is `user`."""

    def __init__(
        self,
        policy: Policy,
        outputs: Sequence[Output],
        *,
        user: User | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self.user = user
        self.clock = clock
        self.waits = any(output.mode != "batch" for output in outputs)
        self.refused = 0  # requests whose events could not be kept
        self._outputs = outputs
        self._events = 0
        self._levels: dict[str, int] = {}

    def follow(self, scope: Scope, receive: Receive, send: Send) -> "Trail":
        return Trail(self, scope, receive, send)

    def judge(self, user: User | None, wanted: Attributes) -> Ruling:
        ruling = self.policy.judge(user, wanted)
        self._levels[ruling.level] = self._levels.get(ruling.level, 0) + 1
        return ruling

    def write(self, record: Record, stage: str, moment: float) -> list[Pending]:
        """What has to be waited for."""
        self._events += 1
        made, pending = record.at(stage, moment), []
        for output in self._outputs:
            if output.mode == "batch":
                output.backend.add(output.encode(made))
            else:
                kept, told = _awaited()
                output.backend.add(output.encode(made), told)
                pending.append(Pending(kept, output.mode == "blocking-strict"))
        return pending

    def failed(self, error: Exception) -> None:
        """A fault of ours, which must not become one of the request's."""
        with contextlib.suppress(OSError):  # the log may be what failed
            log.error("an audit event could not be made", exc_info=error)
        for output in self._outputs:
            output.backend.loss.add(1, "it could not be made")

    def collect(self) -> Iterator[Metric]:
        """A source for `Metrics` (`pkg/audit/metrics.go`)."""
        yield CounterMetricFamily(
            "apiserver_audit_event", "Audit events that were made.", value=self._events
        )
        lost = CounterMetricFamily(
            "apiserver_audit_error", "Audit events that were not written.", labels=("plugin",)
        )
        for output in self._outputs:
            lost.add_metric((output.backend.plugin,), output.backend.loss.count)
        yield lost
        yield CounterMetricFamily(
            "apiserver_audit_requests_rejected",
            "Requests that were refused because their audit event could not be kept.",
            value=self.refused,
        )
        levels = CounterMetricFamily(
            "apiserver_audit_level", "Requests by the level of their audit.", labels=("level",)
        )
        for level, count in list(self._levels.items()):
            levels.add_metric((level,), count)
        yield levels

    async def close(self) -> None:
        """Wait until what was added is kept, for some seconds at most."""
        await asyncio.gather(*(output.backend.close() for output in self._outputs))


class Trail:
    """One request: `begin` once it is known who asks for what, `end` when all is sent.

    Where it waits for its events, the last of them is kept before the last of its response is sent,
    and before the first of it where that is one piece.
    """

    def __init__(self, auditor: Auditor, scope: Scope, receive: Receive, send: Send) -> None:
        self._auditor = auditor
        self._scope = scope
        self._receive = receive
        self._send = send
        self._received = auditor.clock()
        scope["failure"] = None  # where the Status of a failure is to be left
        self._begun = self._ended = self._late = False
        self._pending: list[Pending] = []
        self._head: Message | None = None  # of a response, until what follows it may be sent
        self._spent = latency.opened()
        self._ruling = policy.NOTHING
        self._record: Record | None = None  # none where nothing is kept
        self._verb = ""
        self._code = 0
        self._panic: str | None = None
        self._headers: dict[bytes, bytes] = {}
        self._keeps_request = self._keeps_response = False
        self._request: list[bytes] = []
        self._response: list[bytes] = []
        self._size = 0  # bytes of the response that are kept

    async def receive(self) -> Message:
        message = await self._receive()
        if self._keeps_request and message["type"] == "http.request":
            self._request.append(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in STARTS:
            self._code = STARTS[kind] or message["status"]
            self._headers = dict(message.get("headers", ()))
            if self._verb == "watch":
                self._safely(self._started)
            elif self._auditor.waits:
                self._head = message
                return
        elif kind in BODIES:
            if self._keeps_response:
                self._keep(message.get("body", b""))
            if self._auditor.waits and not message.get("more_body"):
                self._finish()
        if self._pending and not self._late:
            await self._settled()
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)
        await self._send(message)

    def withdrawn(self) -> bool:
        """Whether what was answered has not been sent; then it never is."""
        head, self._head = self._head, None
        return head is not None

    async def ending(self) -> None:
        """Wait until the last event of a watch is kept, before its end is sent."""
        self._finish()
        await self._settled()

    def begin(self) -> None:
        """Judge the request. A user is in the scope by now, where there are users."""
        self._safely(self._begin)

    async def received(self) -> None:
        """Wait for what `begin` has written. 500 where that must be kept and is not."""
        if not await self._settled():
            self._auditor.refused += 1
            raise status.internal("failed to store audit event")

    def before(self, app: ASGIApp) -> ASGIApp:
        """The same after `received`."""
        if not self._pending:
            return app

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            await self.received()
            await app(scope, receive, send)

        return held

    def failed(self, error: Exception) -> None:
        """The request raised an error. One whose time is over waits for nothing any more."""
        self._late = isinstance(error, status.StatusError) and error.code == 504
        if not isinstance(error, FORESEEN):
            self._panic = str(error)

    def end(self) -> None:
        """Write the last stage, unless that is done."""
        self._finish()
        del self._scope["failure"]  # its trace knows the scope: a cycle of all of it
        self._scope.pop("ending", None)

    def _finish(self) -> None:
        """A request that has not begun was refused before."""
        if self._ended:
            return
        self._ended = True
        if not self._begun:
            self.begin()
        self._safely(self._end)

    async def _settled(self) -> bool:
        """Wait for the events that were written; whether those are kept that must be."""
        pending, self._pending = self._pending, []
        found = [await one.kept or not one.strict for one in pending]
        return all(found)

    def _safely(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  counted and logged instead
            self._auditor.failed(error)

    def _begin(self) -> None:
        self._begun = True
        scope, auditor = self._scope, self._auditor
        user: User | None = scope.get("user", auditor.user)
        wanted = attributes(scope, scope.get("request_info"))
        ruling = self._ruling = auditor.judge(user, wanted)
        if ruling.level != "None":
            self._verb = wanted.verb
            record = self._record = self._recorded(user, wanted)
            if wanted.resource and wanted.verb != "watch":
                self._keeps_request = ruling.requests or wanted.verb in ("create", "update")
                self._keeps_response = ruling.responses or wanted.verb == "delete"
            if "tried" not in scope:
                self._write(record, "RequestReceived", self._received)
        if not self._keeps_response and (not auditor.waits or wanted.verb == "watch"):
            scope["send_body"] = self._send
        if auditor.waits and wanted.verb == "watch":
            scope["ending"] = self.ending

    def _recorded(self, user: User | None, wanted: Attributes) -> Record:
        scope = self._scope
        fields = scope["fields"]
        forwarded, real, agent = (
            fields.get(name, b"").decode("latin-1")
            for name in (b"x-forwarded-for", b"x-real-ip", b"user-agent")
        )
        peer = scope.get("client") or ("", 0)
        path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        query: bytes = scope["query_string"]
        return Record(
            level=self._ruling.level,
            audit_id=scope["audit"].decode("latin-1"),
            uri=(path + b"?" + query if query else path).decode("latin-1"),
            verb=wanted.verb,
            user=user,
            addresses=event.source_addresses(forwarded, real, peer[0]),
            agent=agent,
            received=self._received,
            ref=event.reference(wanted),
        )

    def _started(self) -> None:
        if self._record is not None:
            self._complete(self._record)
            self._write(self._record, "ResponseStarted", self._auditor.clock())

    def _end(self) -> None:
        record, scope = self._record, self._scope
        if record is None:
            return
        now = self._auditor.clock()
        if "tried" in scope:
            tried = ", ".join(sorted(scope["tried"]))
            why = f"attempted: {tried}" if tried else "no credentials provided"
            record.status = event.outcome(self._code, {"message": f"Authentication failed, {why}"})
            # Upstream's only event of it: nobody has been let in to whom more could happen.
            self._write(record, "ResponseStarted", now)
            return
        self._complete(record)
        if self._panic is not None:
            panicked = {
                "status": "Failure",
                "message": f"APIServer panic'd: {self._panic}",
                "reason": "InternalError",
            }
            record.status = event.outcome(500, panicked)
            self._write(record, "Panic", now)
            return
        if (total := now - self._received) > SLOW:
            spent = {**self._spent, "total": total}
            record.annotations |= {
                LATENCY + name: duration.render(seconds) for name, seconds in spent.items()
            }
        self._write(record, "ResponseComplete", now)

    def _complete(self, record: Record) -> None:
        """Add what came of the request."""
        scope, ruling = self._scope, self._ruling
        if (decision := scope.get("decision")) is not None:
            record.annotations[DECISION] = "allow" if decision.allowed else "forbid"
            record.annotations[REASON] = decision.reason
        if scope.get("undecided"):
            record.annotations[REASON] = UNDECIDED
        record.annotations |= scope.get("annotations") or {}
        if self._keeps_request:
            found = self._object(b"".join(self._request), scope["fields"], scope.get(body.ASKED))
            if self._verb in ("create", "update"):
                record.name(found)
            if ruling.requests:
                record.request = found
        failure: status.StatusError | None = scope["failure"]
        answer = failure.as_json() if failure is not None else self._answer(record)
        if ruling.responses and record.ref is not None and self._verb != "watch":
            record.response = answer
        told = answer if isinstance(answer, dict) and answer.get("kind") == "Status" else None
        early = {"status": "Success", "message": "Connection closed early"}
        record.status = event.outcome(self._code or 200, told if self._code else early)

    def _answer(self, record: Record) -> Any:
        data = b"".join(self._response)
        said = self._scope.get(responses.ANSWERED)
        if said is not None:
            data = said
        elif self._headers.get(b"content-encoding") == b"gzip":
            data = zlib.decompressobj(GZIP).decompress(data, BODY_LIMIT + 1)
        if max(self._size, len(data)) > BODY_LIMIT:
            record.annotations[event.TRUNCATED] = "true"
            return None
        return self._object(data, self._headers, said)

    def _object(self, data: bytes, headers: Mapping[bytes, bytes], said: bytes | None) -> Any:
        """None for what is none, and was refused for it. YAML is `said` in JSON."""
        media = (
            headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        )
        if not data:
            return None
        try:
            if media in body.YAMLS:
                found = None if said is None else orjson.loads(said)
            elif media == negotiation.PROTOBUF:
                found = protobuf.decode(data)
            else:
                found = orjson.loads(data)
        except (status.StatusError, ValueError):
            return None
        return found if self._ruling.managed_fields else event.without_managed_fields(found)

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > BODY_LIMIT:
            self._response.clear()
        else:
            self._response.append(data)

    def _write(self, record: Record, stage: str, moment: float) -> None:
        if stage not in self._ruling.omitted:
            self._pending += self._auditor.write(record, stage, moment)


def _awaited() -> tuple[asyncio.Future[bool], Callable[[bool], None]]:
    """A future, and what any thread may settle it with."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def settle(kept: bool) -> None:
        if not future.done():  # who waited may have gone
            future.set_result(kept)

    def told(kept: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(settle, kept)

    return future, told
