"""Alerts and the dashboard ask for metrics and labels that there are."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml

from enforcer.telemetry.metrics import Metrics
from tests.deploy.rendering import DEPLOY
from tests.enforcer.reporting import BRIDGE, Clock, enforcing
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdServer

MONITORING = DEPLOY / "monitoring"
POLICIES = "/apis/net.alpha.kubernetes.io/v1alpha1/namespaces/default/networkpolicys"
# What Prometheus adds to each sample, with the node of an enforcer, and the metric that it makes of
# each scrape.
TARGET = {"job", "instance", "namespace", "pod", "node"}
PROMETHEUS = {"up": set[str]()}


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    return [rule for group in loaded["spec"]["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    loaded = json.loads((MONITORING / "dashboard.json").read_text())
    return [panel for panel in loaded["panels"] if panel["type"] != "row"]


def questions() -> list[str]:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    # Grafana's own; any duration does.
    return [rule["expr"] for rule in rules()] + [
        question.replace("$__rate_interval", "5m") for question in asked
    ]


def selectors(expression: Any) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, with the labels that are asked of it."""
    if isinstance(expression, promql.VectorSelector):
        yield expression.name or "", {matcher.name for matcher in expression.matchers.matchers}
    elif isinstance(expression, promql.MatrixSelector):
        yield from selectors(expression.vector_selector)
    elif isinstance(expression, promql.AggregateExpr):
        by = set(expression.modifier.labels) if expression.modifier else set()
        for name, labels in selectors(expression.expr):
            yield name, labels | by
    elif isinstance(expression, promql.BinaryExpr):
        yield from selectors(expression.lhs)
        yield from selectors(expression.rhs)
    elif isinstance(expression, promql.Call):
        for argument in expression.args:
            yield from selectors(argument)
    elif isinstance(expression, promql.ParenExpr | promql.SubqueryExpr | promql.UnaryExpr):
        yield from selectors(expression.expr)
    else:
        assert isinstance(expression, promql.NumberLiteral | promql.StringLiteral), expression


def published(text: str) -> dict[str, set[str]]:
    """The samples that an exposition has or may have, with their labels as far as they show."""
    found: dict[str, set[str]] = {}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + part: set() for part in parts}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.fixture(scope="module")
async def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What the server and etcd publish after some use."""
    folder = tmp_path_factory.mktemp("metrics")
    etcd = EtcdServer(folder)
    server = Server(folder, "--etcd-servers", etcd.endpoint)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            policy = {"metadata": {"name": "p"}, "spec": {"podSelector": {}}}
            assert (await http.post(POLICIES, json=policy)).status_code == 201
            assert (await http.get(POLICIES)).status_code == 200
            async with http.stream("GET", POLICIES, params={"watch": "true"}) as watch:
                await anext(watch.aiter_bytes())
                text = (await http.get("/metrics")).text
            theirs = (await http.get(f"{etcd.endpoint}/metrics")).text
    finally:
        await asyncio.shield(server.stop())
        etcd.kill()
    return published(text) | published(theirs) | published(await of_an_enforcer()) | PROMETHEUS


async def of_an_enforcer() -> str:
    """What an enforcer publishes that has met everything."""

    async def denied() -> dict[str, int]:
        return {"new": 1}

    status = enforcing(Clock())
    status.bypass([BRIDGE])
    content, _ = await Metrics(status, denied=denied).exposition()
    return content.decode()


def test_questions_are_about_metrics_and_labels_that_are_published(
    metrics: dict[str, set[str]],
) -> None:
    asked = [found for question in questions() for found in selectors(promql.parse(question))]
    assert len(asked) > 50
    for name, labels in asked:
        assert name in metrics, name
        shown = metrics[name]
        # A counter that nothing has counted yet shows no labels.
        if shown or not name.startswith("apiserver_terminated_watchers"):
            assert labels - TARGET <= shown | {"le"}, (name, labels, shown)


def test_alerts_say_what_is_wrong_with_labels_that_they_have() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        kept = {
            label for _, labels in selectors(promql.parse(rule["expr"])) for label in labels
        } | TARGET
        told = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert told <= kept, rule["alert"]


def test_panels_do_not_overlap_and_take_what_the_dashboard_offers() -> None:
    loaded = json.loads((MONITORING / "dashboard.json").read_text())
    offered = {variable["name"] for variable in loaded["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(loaded["panels"])))
    assert used == offered
    taken = [
        (x, y)
        for panel in loaded["panels"]
        for place in (panel["gridPos"],)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in loaded["panels"]}) == len(loaded["panels"])
    assert Path(MONITORING / "dashboard.json").read_text().endswith("}\n")


def test_each_alert_of_enforcers_says_which_node() -> None:
    of_enforcers = [rule for rule in rules() if "networkpolicys-enforcer" in rule["expr"]]
    assert len(of_enforcers) >= 10
    for rule in of_enforcers:
        # A policy that is wrong is so on every node.
        if rule["alert"] != "NetworkpolicysInvalid":
            assert "$labels.node" in rule["annotations"]["summary"], rule["alert"]
