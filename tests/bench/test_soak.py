"""What a soak finds fault with."""

import pytest

from bench.soak.followers import Follower
from bench.soak.verdict import Sample, grown


def _samples(*, memory: list[float], size: list[float], seconds: list[float]) -> list[Sample]:
    return [
        Sample(1_000 * number, at, resident, resident, {"file": stored}, 0)
        for number, (at, resident, stored) in enumerate(
            zip(seconds, memory, size, strict=True), start=1
        )
    ]


STEADY = [10.0 * number for number in range(1, 9)]
FLAT = [100.0] * 8


def test_what_stays_as_it_is_passes_however_it_began() -> None:
    filling = [10.0, 60.0, *FLAT[2:]]
    assert not grown(_samples(memory=filling, size=filling, seconds=STEADY))


def test_one_high_sample_is_no_growth_of_memory() -> None:
    memory = [100.0] * 15 + [150.0]
    seconds = [10.0 * number for number in range(1, 17)]
    assert not grown(_samples(memory=memory, size=[1.0] * 16, seconds=seconds))


def test_memory_that_grows_is_found() -> None:
    memory = [100.0 + 5 * number for number in range(8)]
    assert grown(_samples(memory=memory, size=FLAT, seconds=STEADY)) == [
        "memory grew from 112 to 132 MB"
    ]


def test_files_that_grow_are_found() -> None:
    size = [10.0 * number for number in range(1, 9)]
    assert grown(_samples(memory=FLAT, size=size, seconds=STEADY)) == ["file grew from 40 to 80 MB"]


def test_files_may_grow_with_the_pace_of_the_writes() -> None:
    size = [*FLAT[:6], 190.0, 190.0]
    faster = [*STEADY[:6], 65.0, 70.0]
    assert grown(_samples(memory=FLAT, size=size, seconds=STEADY))
    assert not grown(_samples(memory=FLAT, size=size, seconds=faster))


def _line(version: int) -> bytes:
    return (
        b'{"type":"MODIFIED","object":{"kind":"NetworkPolicy",'
        b'"metadata":{"resourceVersion":"%d","name":"a"}}}\n' % version
    )


def test_a_follower_counts_events_wherever_the_stream_is_cut() -> None:
    stream = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in map(_line, (8, 9, 12)))
    for cut in range(len(stream)):
        follower = Follower()
        follower.take(stream[:cut])
        follower.take(stream[cut:])
        assert (follower.count, follower.version) == (3, 12)


def test_a_follower_refuses_an_event_out_of_order() -> None:
    follower = Follower()
    follower.take(_line(9))
    with pytest.raises(RuntimeError, match="9 after 9"):
        follower.take(_line(9))


def test_a_follower_refuses_what_is_no_event() -> None:
    with pytest.raises(RuntimeError, match="no event"):
        Follower().take(b'{"type":"ERROR","object":{"kind":"Status","metadata":{}}}\n')
