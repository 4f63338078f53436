"""Every cell of the reflector's table."""

import random

import pytest

from enforcer.reflector import (
    LONGEST_WAIT,
    Apply,
    Ended,
    Failed,
    Gone,
    Input,
    Line,
    Listed,
    Phase,
    Replace,
    State,
    advance,
)

ITEM = {"metadata": {"name": "x", "resourceVersion": "7"}}
WATCHING = State(Phase.WATCH, revision="5", failures=3)
RAND = random.Random(1)


def line(kind: str, obj: object = ITEM) -> Line:
    return Line({"type": kind, "object": obj})


def test_a_list_is_the_whole_state_and_the_watch_goes_on_from_it() -> None:
    state, output = advance(State(failures=4), Listed((ITEM,), "5"), RAND)
    assert state == State(Phase.WATCH, revision="5")
    assert output == Replace((ITEM,), "5")


def test_pages_are_put_together() -> None:
    state, output = advance(State(), Listed((ITEM,), "5", token="more"), RAND)
    assert (state.phase, state.token, output) == (Phase.LIST, "more", None)
    state, output = advance(state, Listed((ITEM, ITEM), "5"), RAND)
    assert output == Replace((ITEM, ITEM, ITEM), "5")


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("ADDED", Apply(ITEM)),
        ("MODIFIED", Apply(ITEM)),
        ("DELETED", Apply(ITEM, deleted=True)),
        ("BOOKMARK", None),
        ("FROM THE FUTURE", None),
    ],
)
def test_a_line_moves_the_watch_on_and_ends_a_row_of_failures(
    kind: str, output: Apply | None
) -> None:
    assert advance(WATCHING, line(kind), RAND) == (State(Phase.WATCH, revision="7"), output)


@pytest.mark.parametrize(
    "event",
    [
        Gone(),
        line("ERROR", {"code": 410}),
        line("ERROR", {"reason": "Expired"}),
        # A server that was restored from a backup has not come as far.
        line(
            "ERROR", {"code": 504, "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}
        ),
    ],
)
def test_history_that_is_gone_means_to_list_again(event: Input) -> None:
    state, output = advance(WATCHING, event, RAND)
    assert (state.phase, state.revision, output) == (Phase.LIST, "", None)


def test_a_watch_that_ends_is_resumed_where_it_was() -> None:
    state, _ = advance(WATCHING, Ended(), RAND)
    assert (state.phase, state.revision) == (Phase.WATCH, "5")


@pytest.mark.parametrize("event", [Failed(), line("ERROR", {"code": 500}), line("ADDED", None)])
def test_a_watch_that_fails_is_resumed_after_a_while(event: Input) -> None:
    state, output = advance(WATCHING, event, RAND)
    assert (state.phase, state.revision, state.failures, output) == (Phase.WATCH, "5", 4, None)
    assert 0 < state.wait <= LONGEST_WAIT


def test_a_list_that_fails_begins_at_its_first_page() -> None:
    state, _ = advance(State(token="more", items=(ITEM,)), Failed(), RAND)
    assert (state.phase, state.token, state.items, state.failures) == (Phase.LIST, "", (), 1)


def test_a_token_that_is_gone_begins_the_list_anew() -> None:
    state, _ = advance(State(token="more", items=(ITEM,)), Gone(), RAND)
    assert (state.token, state.items) == ("", ())


def test_waits_grow_to_a_bound() -> None:
    state, waits = State(), []
    for _ in range(40):
        state, _ = advance(state, Failed(), RAND)
        waits.append(state.wait)
    assert waits[0] <= 0.1
    assert max(waits) <= LONGEST_WAIT
    assert min(waits[20:]) >= LONGEST_WAIT / 2


@pytest.mark.parametrize(
    ("state", "event"),
    [(State(), line("ADDED")), (State(), Ended()), (WATCHING, Listed((), "9"))],
)
def test_what_comes_late_changes_nothing(state: State, event: Input) -> None:
    assert advance(state, event, RAND) == (state, None)
