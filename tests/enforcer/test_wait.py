"""The wait socket, asked over a real socket of a real process."""

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.cni import claim as protocol
from enforcer.cni import wait
from enforcer.cni.claim import BadRequest, Claim, ClaimRequest, ReleaseRequest
from tests.enforcer.waiting import Waiting

Json = dict[str, Any]
POD: Json = {
    "namespace": "a",
    "name": "web-0",
    "uid": "0f9c",
    "ips": ["10.9.0.5", "fd09::5"],
    "containerID": "c1",
    "ifname": "eth0",
}
CLAIM: Json = {"version": 1, "operation": "claim", **POD}
RELEASE: Json = {"version": 1, "operation": "release", **POD}
LINE = "a/web-0 0f9c 10.9.0.5,fd09::5 c1 eth0"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Waiting]:
    process = Waiting(tmp_path)
    await process.ready()
    yield process
    await process.stop()
    assert "Traceback" not in process.log.read_text().replace('"exception": "Traceback', "")


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: Path, said: bytes | Json) -> "Client":
        client = cls(*await asyncio.open_unix_connection(path))
        await client.say(said)
        return client

    async def say(self, said: bytes | Json) -> None:
        self._writer.write(said if isinstance(said, bytes) else json.dumps(said).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def answer(self) -> Json | None:
        """None where the connection ends without one."""
        try:
            async with asyncio.timeout(15):
                line = await self._reader.readline()
        except ConnectionError:
            return None
        finally:
            self.leave()
        return json.loads(line) if line else None

    def leave(self) -> None:
        self._writer.close()


async def ask(path: Path, said: bytes | Json) -> Json | None:
    return await (await Client.open(path, said)).answer()


async def refusal(path: Path, said: bytes | Json) -> tuple[str, str]:
    answer = await ask(path, said)
    assert answer is not None
    assert (answer["version"], answer["ok"]) == (1, False)
    return answer["reason"], answer["message"]


async def test_a_claim_is_answered_once_the_pod_is_programmed(server: Waiting) -> None:
    client = await Client.open(server.socket, CLAIM)
    await server.seen(lambda: server.heard() == [f"claim {LINE}"])
    answered = asyncio.create_task(client.answer())
    await asyncio.sleep(0.2)
    assert not answered.done()
    server.say("programmed")
    answer = await answered
    assert answer is not None
    assert answer.keys() == {"version", "ok", "milliseconds"}
    assert answer["ok"] is True
    assert 200 <= answer["milliseconds"] < 15_000
    # Again, as CHECK and a client that was cut off do.
    assert (await ask(server.socket, CLAIM) or {})["milliseconds"] < 200


async def test_a_wait_has_an_end(server: Waiting) -> None:
    reason, message = await refusal(server.socket, {**CLAIM, "timeout": 0.2})
    assert (reason, message) == ("Timeout", "a/web-0: not programmed within 0.2 seconds")
    await server.seen(lambda: server.heard("cancelled") == [f"cancelled {LINE}"])


async def test_who_leaves_waits_no_longer(server: Waiting) -> None:
    client = await Client.open(server.socket, CLAIM)
    await server.seen(lambda: bool(server.heard("claim")))
    assert not server.heard("cancelled")
    client.leave()
    await server.seen(lambda: server.heard("cancelled") == [f"cancelled {LINE}"])


async def test_a_refusal_has_its_reason_and_a_failure_is_logged(server: Waiting) -> None:
    server.say("refused", "10.9.0.5 is of another pod")
    assert await refusal(server.socket, CLAIM) == ("Refused", "10.9.0.5 is of another pod")
    (server.folder / "refused").unlink()
    server.say("broken")
    assert await refusal(server.socket, CLAIM) == ("InternalError", "a/web-0: RuntimeError")
    assert await refusal(server.socket, RELEASE) == ("InternalError", "a/web-0: RuntimeError")
    assert "in programmed" in str(server.events("a pod could not be waited for"))


async def test_a_release_is_heard_from_one_who_does_not_listen(server: Waiting) -> None:
    assert await ask(server.socket, RELEASE) == {"version": 1, "ok": True, "milliseconds": 0.0}
    (await Client.open(server.socket, {**RELEASE, "ips": [], "uid": ""})).leave()
    heard = [f"release {LINE}", "release a/web-0 - - c1 eth0"]
    await server.seen(lambda: server.heard("release") == heard)


async def test_it_tells_that_it_is_there(server: Waiting) -> None:
    assert (await ask(server.socket, {"version": 1, "operation": "status"}) or {})["ok"] is True


@pytest.mark.parametrize(
    ("said", "reason", "words"),
    [
        (b"\n", "BadRequest", "no JSON"),
        (b"ADD\n", "BadRequest", "no JSON"),
        (b"\x00\xff\xfe\n", "BadRequest", "no JSON"),
        (b"[1]\n", "BadRequest", "no JSON object"),
        (b"[" * 10_000 + b"\n", "BadRequest", "no JSON"),
        (b'{"version":1,"timeout":NaN}\n', "BadRequest", "no JSON"),
        ({**CLAIM, "version": 2}, "UnsupportedVersion", "2"),
        ({**CLAIM, "version": True}, "UnsupportedVersion", "True"),
        ({"operation": "status"}, "UnsupportedVersion", "None"),
        ({**CLAIM, "operation": "ADD"}, "BadRequest", "'ADD' is none of claim, release, status"),
        ({**CLAIM, "operation": ["claim"]}, "BadRequest", "operation"),
        ({**CLAIM, "podCIDR": "10.9.0.0/24"}, "BadRequest", "no field 'podCIDR'"),
        ({**RELEASE, "timeout": 1}, "BadRequest", "no field 'timeout'"),
        ({**CLAIM, "namespace": "A"}, "BadRequest", "namespace: 'A'"),
        ({**CLAIM, "namespace": "a.b"}, "BadRequest", "namespace: 'a.b'"),
        ({**CLAIM, "namespace": "a\n"}, "BadRequest", "namespace"),
        ({**CLAIM, "namespace": "a" * 64}, "BadRequest", "namespace"),
        ({**CLAIM, "name": None}, "BadRequest", "name: is no text"),
        ({**CLAIM, "name": ""}, "BadRequest", "name"),
        ({**CLAIM, "uid": "a b"}, "BadRequest", "uid"),
        ({**CLAIM, "containerID": "../c1"}, "BadRequest", "containerID"),
        ({**CLAIM, "ifname": ".."}, "BadRequest", "ifname"),
        ({**CLAIM, "ifname": "a" * 16}, "BadRequest", "ifname"),
        ({**CLAIM, "ips": []}, "BadRequest", "a claim needs an address"),
        ({**CLAIM, "ips": "10.9.0.5"}, "BadRequest", "ips: is no list of texts"),
        ({**CLAIM, "ips": [1]}, "BadRequest", "ips: is no list of texts"),
        ({**CLAIM, "ips": ["10.9.0.5/24"]}, "BadRequest", "'10.9.0.5/24' is no address"),
        ({**CLAIM, "ips": ["10.9.0.05"]}, "BadRequest", "'10.9.0.05' is no address"),
        ({**CLAIM, "ips": ["FD09::5"]}, "BadRequest", "to be written fd09::5"),
        ({**CLAIM, "ips": ["fd09:0::5"]}, "BadRequest", "to be written fd09::5"),
        ({**CLAIM, "ips": ["fd09::5%eth0"]}, "BadRequest", "no address of a pod"),
        ({**CLAIM, "ips": ["127.0.0.1"]}, "BadRequest", "no address of a pod"),
        ({**CLAIM, "ips": ["0.0.0.0"]}, "BadRequest", "no address of a pod"),
        ({**CLAIM, "ips": ["fe80::5"]}, "BadRequest", "no address of a pod"),
        ({**CLAIM, "ips": ["10.9.0.5", "10.9.0.5"]}, "BadRequest", "twice"),
        ({**CLAIM, "ips": [f"10.9.1.{n}" for n in range(65)]}, "BadRequest", "at most 64"),
        ({**CLAIM, "timeout": 0}, "BadRequest", "timeout"),
        ({**CLAIM, "timeout": True}, "BadRequest", "timeout"),
        ({**CLAIM, "timeout": "1"}, "BadRequest", "timeout"),
        ({**CLAIM, "timeout": 3601}, "BadRequest", "timeout"),
    ],
)
async def test_what_is_wrong_is_said(
    session_server: Waiting, said: bytes | Json, reason: str, words: str
) -> None:
    found, message = await refusal(session_server.socket, said)
    assert found == reason
    assert words in message
    assert not session_server.heard()


@pytest.fixture(scope="module")
async def session_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Waiting]:
    process = Waiting(tmp_path_factory.mktemp("wait"))
    await process.ready()
    yield process
    await process.stop()


@pytest.mark.parametrize("end", [b"\n", b""], ids=["ended", "endless"])
def test_a_line_is_not_read_to_its_end_if_it_is_too_long(
    session_server: Waiting, end: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(session_server.socket))
        with contextlib.suppress(ConnectionError):
            client.sendall(b"x" * 1_000_000 + end)
        answer = json.loads(client.recv(1_000))
    assert answer["message"] == "a line has at most 16384 bytes"


async def test_one_who_says_half_a_line_or_two_is_told_so(session_server: Waiting) -> None:
    reader, writer = await asyncio.open_unix_connection(session_server.socket)
    writer.write(b'{"version":1')
    writer.write_eof()
    assert "does not end" in (await reader.readline()).decode()
    writer.close()
    (session_server.folder / "heard").unlink(missing_ok=True)
    client = await Client.open(session_server.socket, CLAIM)
    await session_server.seen(lambda: bool(session_server.heard("claim")))
    await client.say(RELEASE)
    answer = await client.answer()
    assert answer is not None
    assert answer["message"] == "one connection is for one line"
    assert not session_server.heard("release")
    (session_server.folder / "heard").unlink()


async def test_one_who_says_nothing_is_not_waited_for(session_server: Waiting) -> None:
    client = await Client.open(session_server.socket, b"")
    assert await client.answer() == {
        "version": 1,
        "ok": False,
        "reason": "BadRequest",
        "message": "no line within 5 seconds",
    }


async def test_only_its_own_user_reaches_it_and_it_is_gone_at_the_end(tmp_path: Path) -> None:
    process = Waiting(tmp_path)
    await process.ready()
    found = process.socket.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    client = await Client.open(process.socket, CLAIM)
    await process.seen(lambda: bool(process.heard("claim")))
    assert await process.stop() == 0
    assert await client.answer() is None
    assert process.heard("cancelled")
    assert not list(process.socket.parent.iterdir())


async def test_the_socket_of_a_dead_process_is_replaced_and_of_a_living_one_kept(
    tmp_path: Path,
) -> None:
    dead = Waiting(tmp_path)
    await dead.ready()
    await dead.kill()
    assert dead.socket.exists()
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(str(dead.socket))
    living, second = Waiting(tmp_path), Waiting(tmp_path)
    await living.ready()
    await second.start()
    assert await second.wait() != 0
    assert f"another process answers there: '{living.socket}'" in second.log.read_text()
    assert (await ask(living.socket, {"version": 1, "operation": "status"}) or {})["ok"]
    await living.stop()


async def test_a_successor_keeps_its_socket_when_the_predecessor_ends(tmp_path: Path) -> None:
    first = Waiting(tmp_path)
    await first.ready()
    first.socket.unlink()
    second = Waiting(tmp_path)
    await second.ready()
    await first.stop()
    assert (await ask(second.socket, {"version": 1, "operation": "status"}) or {})["ok"]
    await second.stop()


async def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    process = Waiting(tmp_path)
    process.socket.parent.mkdir()
    process.socket.write_text("mine")
    await process.start()
    assert await process.wait() != 0
    assert "is there, and is no socket" in process.log.read_text()
    assert process.socket.read_text() == "mine"


async def test_two_thousand_at_once_wait_their_turn(tmp_path: Path) -> None:
    server = Waiting(tmp_path)
    await server.ready()
    turned_away = 0

    async def client(number: int) -> None:
        """As the plugin does it: again after a while, until it is let in."""
        nonlocal turned_away
        said = {**CLAIM, "name": f"web-{number}", "containerID": f"c{number}"}
        while True:
            answer = None
            with contextlib.suppress(OSError):
                answer = await ask(server.socket, said)
            if answer is not None and answer["ok"]:
                return
            assert answer is None or answer["reason"] == "TooManyRequests", answer
            turned_away += 1
            await asyncio.sleep(0.2)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for number in range(2_000):
            tasks.create_task(client(number))
        await server.seen(lambda: turned_away >= 2_000 and len(server.heard("claim")) >= 512)
        await asyncio.sleep(0.3)
        # No more wait than there are places for, nobody was dropped, and a release gets through.
        assert len(server.heard("claim")) == wait.WAITING
        assert not server.heard("cancelled")
        async with asyncio.timeout(10):
            while not server.heard("release"):
                with contextlib.suppress(OSError):
                    await ask(server.socket, RELEASE)
        server.say("programmed")
    assert {line.split()[1] for line in server.heard("claim")} == {
        f"a/web-{number}" for number in range(2_000)
    }
    await server.stop()


ADDRESSES = st.one_of(
    st.ip_addresses(v=4, network="10.0.0.0/8"), st.ip_addresses(v=6, network="fd00::/8")
)


@given(st.lists(ADDRESSES, min_size=1, max_size=8, unique=True), st.floats(0.001, 3600))
def test_a_claim_arrives_as_it_was_made(ips: list[Any], timeout: float) -> None:
    texts = tuple(str(ip) for ip in ips)
    said = {**CLAIM, "ips": list(texts), "timeout": timeout}
    parsed = protocol.parse(orjson.dumps(said))
    claim = Claim("a", "web-0", "0f9c", texts, "c1", "eth0")
    assert parsed == ClaimRequest(claim, timeout)
    del said["timeout"]
    assert protocol.parse(orjson.dumps(said)) == ClaimRequest(claim, None)
    release = {**RELEASE, "ips": list(texts)}
    assert protocol.parse(orjson.dumps(release)) == ReleaseRequest(claim)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_line_is_more_than_a_bad_request(line: bytes) -> None:
    with pytest.raises(BadRequest):
        protocol.parse(line)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 4_000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted({*CLAIM, "timeout"})), VALUES))
def test_a_field_of_another_kind_is_a_bad_request_or_means_what_it_says(fields: Json) -> None:
    try:
        parsed = protocol.parse(orjson.dumps({**CLAIM, **fields}))
    except BadRequest:
        return
    if isinstance(parsed, ClaimRequest | ReleaseRequest):
        assert all(str(ip_address(ip)) == ip for ip in parsed.claim.ips)


def test_the_longest_claim_is_a_line() -> None:
    longest = {
        **CLAIM,
        "namespace": "a" * 63,
        "name": ".".join(["a" * 62] * 4),
        "uid": "a" * 128,
        "ips": [f"fd09:1111:2222:3333:4444:5555:6666:{n:04x}" for n in range(0x1000, 0x1040)],
        "containerID": "c" * 256,
        "ifname": "e" * 15,
        "timeout": 3600,
    }
    line = json.dumps(longest).encode()
    assert isinstance(protocol.parse(line), ClaimRequest)
    assert len(line) < protocol.LINE / 3
