"""The table that `netpol-enforcer flows` shows."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest

from enforcer.flows import table as flow_table
from enforcer.flows.report import Report
from tests.enforcer.flow_world import START, Story, seen


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def reports() -> list[Report]:
    story = Story()
    flows = story.flows()
    flows.see(seen(time=START - 7200))
    flows.see(seen(time=START - 5))
    flows.see(seen("192.0.2.1", "fd66::13", None, protocol="ICMP", audit=True, time=START - 61))
    return flows.merge([])


def now() -> datetime:
    return datetime.fromtimestamp(START, UTC)


def shown(found: list[Report], output: StringIO) -> str:
    flow_table.show(found, output, now=now)
    return output.getvalue()


def test_elsewhere_it_is_plain_text() -> None:
    assert shown(reports(), StringIO()).splitlines() == [
        "VERDICT  SOURCE      DESTINATION  PORT    COUNT  SINCE  LAST  WHY",
        "denied   shop/front  shop/back    TCP 81  2      2h0m   5s    shop/pol1, rule 0, allows"
        " the source, but not the port",
        "audited  192.0.2.1   lab/tool     ICMP    1      1m1s   1m1s  no policy selects the pod",
    ]


def test_on_a_terminal_it_is_in_colour_and_says_the_same() -> None:
    text = shown(reports(), Terminal())
    assert "\x1b[" in text
    for word in ("denied", "shop/front", "shop/back", "audited", "lab/tool"):
        assert word in text


def test_no_flows_are_said_so() -> None:
    assert shown([], StringIO()) == "no flows\n"


def test_names_do_not_speak_to_the_terminal() -> None:
    (first, *_) = reports()
    first["source"] = "shop/\x1b[2J[red]x"
    for output in (StringIO(), Terminal()):
        text = shown([first], output)
        assert "\x1b[2J" not in text
    assert "shop/?[2J[red]x" in shown([first], StringIO())


def test_a_time_ahead_of_ones_own_clock_is_no_age() -> None:
    (first, *_) = reports()
    output = StringIO()
    flow_table.show([first], output, now=lambda: now() - timedelta(hours=3))
    assert " 0s " in output.getvalue()
