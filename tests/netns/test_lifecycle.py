"""Open connections while policies change, and an API server that is away."""

import asyncio

import pytest

from tests.lab.agents import Probe
from tests.netns.conftest import PODS, Lab, everything, rule, spec

FRONT, BACK, OTHER = PODS
OPEN = rule({"pods": {"role": "front"}}, ports=[{"port": 80}, {"port": 80, "protocol": "UDP"}])


async def isolated(lab: Lab) -> None:
    """`front` may reach `back` on port 80, and nobody else anybody in `a`."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", OPEN))
    await lab.settled()


@pytest.mark.parametrize("family", [0, 1])
async def test_D01_a_connection_is_cut_when_its_policy_goes(lab: Lab, family: int) -> None:
    await isolated(lab)
    stream = await lab.agents.hold("front", BACK.ips[family], 80)
    assert await lab.agents.ask("front", do="say", stream=stream) == "open"
    await lab.api.drop_policy("a", "p")
    await lab.settled()
    assert await lab.agents.ask("front", do="say", stream=stream, timeout=2.0) == "reset"


async def test_D02_a_server_that_speaks_first_is_not_heard_and_is_reset(lab: Lab) -> None:
    await isolated(lab)
    before = int(await lab.agents.ask("back", do="served"))
    stream = await lab.agents.hold("front", BACK.ips[0], 80)
    assert await lab.agents.ask("front", do="say", stream=stream) == "open"
    assert int(await lab.agents.ask("back", do="served")) == before + 1
    await lab.api.drop_policy("a", "p")
    await lab.settled()
    await lab.agents.ask("back", do="push")
    assert await lab.agents.ask("front", do="hear", stream=stream, timeout=0.6) == "silent"
    assert int(await lab.agents.ask("back", do="served")) <= before


async def test_D06_a_policy_that_comes_back_while_nothing_is_said_cuts_nothing(lab: Lab) -> None:
    await isolated(lab)
    stream = await lab.agents.hold("front", BACK.ips[0], 80)
    await lab.api.drop_policy("a", "p")
    await lab.settled()
    await lab.api.policy("a", "p", spec("back", OPEN))
    await lab.settled()
    assert await lab.agents.ask("front", do="say", stream=stream) == "open"


async def test_D03_a_flush_of_conntrack_reopens_nothing(lab: Lab) -> None:
    await isolated(lab)
    stream = await lab.agents.hold("front", BACK.ips[0], 80)
    assert await lab.agents.ask("front", do="say", stream=stream) == "open"
    await lab.api.drop_policy("a", "p")
    await lab.settled()
    lab.world.flush_conntrack()
    await lab.agents.ask("back", do="push")
    assert await lab.agents.ask("front", do="hear", stream=stream, timeout=0.5) == "silent"
    assert await lab.agents.ask("front", do="say", stream=stream, timeout=0.5) != "open"


async def test_D04_an_allowed_connection_outlives_a_flush_of_conntrack(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule({"namespaces": {"team": "b"}})))
    await lab.settled()
    stream = await lab.agents.hold("other", BACK.ips[0], 80)
    assert await lab.agents.ask("other", do="say", stream=stream) == "open"
    lab.world.flush_conntrack()
    assert await lab.agents.ask("other", do="say", stream=stream, timeout=2.0) == "open"


async def test_D05_datagrams_stop_with_the_policy(lab: Lab) -> None:
    await isolated(lab)
    probe = Probe("front", BACK.ips[0], "udp", 80)
    assert (await lab.check([probe]))[probe]
    await lab.api.drop_policy("a", "p")
    assert not (await lab.check([probe]))[probe]


async def test_D09_without_the_server_the_last_state_stays(lab: Lab) -> None:
    await isolated(lab)
    before = await lab.check()
    await lab.server.kill()
    await lab.enforcer.kill()
    await lab.enforcer.begin()
    await asyncio.sleep(1.0)
    assert await lab.agents.probe(before) == before
    await lab.server.start()
    await lab.enforcer.until("enforcing", seconds=30)
    assert await lab.check() == before
    await lab.api.drop_policy("a", "p")
    await lab.check()


async def test_D11_a_server_that_restarts_causes_no_transaction(lab: Lab) -> None:
    await isolated(lab)
    commits = len(lab.enforcer.events("committed"))
    await lab.server.kill()
    await lab.server.start()
    await asyncio.sleep(1.5)
    assert len(lab.enforcer.events("committed")) == commits
    await lab.check(everything((80,)))
