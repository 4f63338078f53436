"""What depends on the store: the same on an etcd older than upstream can use."""

import json

import httpx

from tests.apiserver.rows.test_create import failure
from tests.apiserver.rows.test_watch import WATCH_LIST
from tests.apiserver.test_resources import create, policy
from tests.lab.cluster import POLICIES
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdServer

DEFAULT = f"{POLICIES}/namespaces/default/networkpolicys"


async def test_W12_C15_watch_lists_and_large_objects_on_etcd(
    on_etcd: tuple[Server, EtcdServer],
) -> None:
    server, _ = on_etcd
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        made = await create(http, DEFAULT, "p")
        for query in ({}, WATCH_LIST, {**WATCH_LIST, "resourceVersion": "0"}):
            params = {"watch": "true", "timeoutSeconds": "1", **query}
            answer = await http.get(DEFAULT, params=params)
            events = [json.loads(line) for line in answer.text.splitlines()]
            assert events[0] == {"type": "ADDED", "object": made}
            assert [event["type"] for event in events[1:]] == (["BOOKMARK"] if query else [])
        notes = {"big": "x" * 200_000}
        labels = {f"l{n}": "y" * 63 for n in range(25_000)}
        huge = await http.post(DEFAULT, json=policy("huge", annotations=notes, labels=labels))
        assert failure(huge)[:2] == (413, "RequestEntityTooLarge")
        assert (await http.get(f"{DEFAULT}/huge")).status_code == 404
