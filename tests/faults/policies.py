"""Requests for policies as operations: paths and bodies out, outcomes and items in.

Everything that the suite knows of the API is here. A write carries its mark as an annotation, and
its colour as a label.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from tests.faults.client import Answer, Broken, Client, Server
from tests.faults.history import WRITES, Item, Kind, Operation, Outcome, Recorder
from tests.lab.cluster import POLICIES

PATH = f"{POLICIES}/namespaces/default/networkpolicys"
MARK = "value"
COLOUR = "colour"
REFUSALS = {404: Outcome.ABSENT, 409: Outcome.CONFLICT, 429: Outcome.REFUSED}
_METHODS = {
    Kind.CREATE: "POST",
    Kind.UPDATE: "PUT",
    Kind.DELETE: "DELETE",
    Kind.GET: "GET",
    Kind.LIST: "GET",
}


async def perform(
    client: Client,
    recorder: Recorder,
    *,
    name: str,
    kind: Kind,
    key: str = "",
    value: str = "",
    expected: int = 0,
) -> Operation:
    """Ask, and record what came of it. `NotSent` where nothing was asked, and nothing recorded."""
    value = value if kind in (Kind.CREATE, Kind.UPDATE) else ""
    expected = expected if kind in (Kind.UPDATE, Kind.DELETE) else 0
    path = PATH if kind in (Kind.CREATE, Kind.LIST) else f"{PATH}/{key}"
    body = _body(kind, key, value, expected)
    invoked = recorder.tick()
    answer: Answer | None
    try:
        answer = await client.request(_METHODS[kind], path, body)
    except Broken:
        answer = None
    returned = recorder.tick()
    outcome = _outcome(kind, answer)
    revision, uid = 0, ""
    found: tuple[Item, ...] = ()
    if outcome is Outcome.DONE and answer is not None:
        revision, uid, found = _read(kind, orjson.loads(answer.body))
    operation = Operation(
        client=name,
        kind=kind,
        key=key if kind is not Kind.LIST else "",
        invoked=invoked,
        returned=returned,
        outcome=outcome,
        value=value,
        expected=expected,
        revision=revision,
        uid=uid,
        found=found,
    )
    recorder.operations.append(operation)
    return operation


async def status_at(servers: Sequence[Server], revision: int) -> int:
    """The status of a list of exactly that past state: 410 once it is forgotten."""
    client = Client(servers)
    query = f"resourceVersion={revision}&resourceVersionMatch=Exact"
    try:
        return (await client.request("GET", f"{PATH}?{query}")).status
    finally:
        client.close()


def item(obj: dict[str, Any]) -> Item:
    meta = obj["metadata"]
    mark = meta.get("annotations", {}).get(MARK, "")
    return Item(meta["name"], mark, meta["uid"], int(meta["resourceVersion"]))


def _body(kind: Kind, key: str, value: str, expected: int) -> bytes:
    if kind not in WRITES:
        return b""
    if kind is Kind.DELETE:
        revision = {"resourceVersion": str(expected)} if expected else {}
        return orjson.dumps({"preconditions": revision})
    meta: dict[str, object] = {
        "name": key,
        "annotations": {MARK: value},
        "labels": {COLOUR: value.rpartition("-")[2]},
    }
    if expected:
        meta["resourceVersion"] = str(expected)
    return orjson.dumps({"kind": "NetworkPolicy", "metadata": meta, "spec": {}})


def _outcome(kind: Kind, answer: Answer | None) -> Outcome:
    if answer is None or answer.status >= 500:
        return Outcome.UNKNOWN
    if answer.status in (200, 201):
        return Outcome.DONE
    if (answer.status == 404 and kind is Kind.CREATE) or answer.status not in REFUSALS:
        raise AssertionError(f"unexpected answer to a {kind}: {answer}")
    return REFUSALS[answer.status]


def _read(kind: Kind, body: dict[str, Any]) -> tuple[int, str, tuple[Item, ...]]:
    """The revision of a list, the incarnation that a delete ended, and the objects."""
    if kind is Kind.DELETE:
        return 0, body["details"]["uid"], ()
    if kind is Kind.LIST:
        items = tuple(item(obj) for obj in body["items"])
        return int(body["metadata"]["resourceVersion"]), "", items
    return 0, "", (item(body),)
