"""A sample of states at random, each probed with packets between all pairs."""

import random
from typing import Any

import pytest

from tests.netns.conftest import PODS, Lab

LABELS = ("role", "tier")
PORTS: list[dict[str, Any]] = [
    {"port": 80},
    {"port": "80:81"},
    {"port": "79:200"},
    {"port": "web"},
    {"port": 80, "protocol": "UDP"},
    {"protocol": "SCTP"},
    {"protocol": "ICMP"},
]


def labels(rand: random.Random) -> dict[str, str | None]:
    return {key: rand.choice(("1", "2", None)) for key in LABELS}


def selector(rand: random.Random) -> dict[str, Any]:
    match rand.randrange(4):
        case 0:
            return {}
        case 1:
            return {rand.choice(LABELS): rand.choice("12")}
        case 2:
            operator = rand.choice(("Exists", "DoesNotExist"))
            return {"matchExpressions": [{"key": rand.choice(LABELS), "operator": operator}]}
        case _:
            operator, values = rand.choice(("In", "NotIn")), rand.sample("123", 2)
            expression = {"key": rand.choice(LABELS), "operator": operator, "values": values}
            return {"matchExpressions": [expression]}


def peer(rand: random.Random) -> dict[str, Any]:
    if rand.random() < 0.6:
        return {"pods": selector(rand)}
    return {"namespaces": rand.choice(({}, {"team": "a"}, {"team": "b"}))}


def rule(rand: random.Random) -> dict[str, Any]:
    return {
        "from": [peer(rand) for _ in range(rand.choice((0, 1, 1, 2)))],
        "toPorts": rand.sample(PORTS, rand.choice((0, 1, 2))),
    }


@pytest.mark.parametrize("seed", range(8))
async def test_packets_meet_what_the_verdict_says_in_any_state(lab: Lab, seed: int) -> None:
    rand = random.Random(seed)
    for pod in PODS:
        await lab.api.label(pod.namespace, pod.name, labels(rand))
    for namespace in ("a", "b"):
        await lab.api.isolate(namespace, rand.choice(("on", "on", "on", "audit", "off")))
        for number in range(rand.choice((1, 2, 3))):
            rules = [rule(rand) for _ in range(rand.choice((1, 1, 2)))]
            spec = {"podSelector": selector(rand), "allowIncoming": rules}
            await lab.api.policy(namespace, f"p{number}", spec)
    await lab.check()
