"""A watcher that goes on after every break from the last revision it knows, and notes all it hears.

Its watches are short, so that bookmarks and clean ends are met as often as faults.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from tests.faults import policies
from tests.faults.client import Broken, Client, NotSent, Server
from tests.faults.history import Kind, Outcome, Recorder, Said, Stream, Told

SECONDS = 3  # that a watch lasts; its last bookmark comes two seconds before the end
SILENCE = SECONDS + 5.0  # seconds without a word after which a connection counts as broken
BACKOFF = 0.05
EXPIRED = 410


@dataclass(slots=True)
class Watcher:
    """`reached` is the revision that it knows all events up to.

    `breaks` counts its broken connections, `expired` the answers 410. After one of those it lists
    and goes on if it may `relist`; else it ends.
    """

    name: str
    servers: Sequence[Server]
    recorder: Recorder
    first: int = 0
    colour: str = ""
    relist: bool = False
    reached: int = 0
    breaks: int = 0
    expired: int = 0
    told: list[Told] = field(default_factory=list)
    _home: asyncio.Event = field(default_factory=asyncio.Event)
    _client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.come_back(self.servers)

    def stay_away(self) -> None:
        """Break off, and watch nothing until told to come back."""
        self._home.clear()
        self._client.close()

    def come_back(self, servers: Sequence[Server]) -> None:
        """Go on where it was, at those servers."""
        self._client = Client(servers, first=self.first, timeout=SILENCE)
        self._home.set()

    async def run(self) -> None:
        """Watch until cancelled, or until history is gone."""
        try:
            while self.reached or self.relist or not self.expired:
                await self._home.wait()
                try:
                    if self.reached:
                        await self._watch(self._client)
                    else:
                        await self._list(self._client)
                except (Broken, NotSent):
                    self.breaks += 1
                    await asyncio.sleep(BACKOFF)
        finally:
            self._client.close()

    def stream(self) -> Stream:
        return Stream(self.name, tuple(self.told), self.colour, may_expire=self.relist)

    async def _list(self, client: Client) -> None:
        listed = await policies.perform(client, self.recorder, name=self.name, kind=Kind.LIST)
        if listed.outcome is not Outcome.DONE:
            raise Broken(str(listed))
        self._note(Told(self.recorder.tick(), Said.LISTED, listed.revision))

    async def _watch(self, client: Client) -> None:
        selector = f"&labelSelector={policies.COLOUR}%3D{self.colour}" if self.colour else ""
        query = f"watch=true&allowWatchBookmarks=true&timeoutSeconds={SECONDS}{selector}"
        lines = client.lines(f"{policies.PATH}?{query}&resourceVersion={self.reached}")
        try:
            status = int(await anext(lines))
            async for line in lines:
                parsed = orjson.loads(line)
                if status != 200 or parsed["type"] == "ERROR":
                    self._failed(parsed if status != 200 else parsed["object"])
                    return
                self._hear(parsed)
        finally:
            await lines.aclose()

    def _hear(self, line: dict[str, object]) -> None:
        said, obj = Said(str(line["type"])), line["object"]
        assert isinstance(obj, dict)
        revision = int(obj["metadata"]["resourceVersion"])
        item = None if said is Said.BOOKMARK else policies.item(obj)
        self._note(Told(self.recorder.tick(), said, revision, item))

    def _failed(self, body: dict[str, object]) -> None:
        if body["code"] == EXPIRED:
            self.expired += 1
            self._note(Told(self.recorder.tick(), Said.EXPIRED, 0))
            return
        raise Broken(str(body))

    def _note(self, told: Told) -> None:
        self.told.append(told)
        self.reached = told.revision
