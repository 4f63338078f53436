"""Writes straight to the server, and what it answers of them."""

import asyncio
import json
import random
from typing import Any

import httpx

from tests.lab.cluster import POLICIES

NAMESPACES = ("east", "west")
NAMES = [f"p{number}" for number in range(12)]
WRITERS = 8

_MERGE = {"Content-Type": "application/merge-patch+json"}


class Writers:
    """Random writes. `acknowledged` are the versions that the server answered with."""

    def __init__(self, url: str, seed: int) -> None:
        self.acknowledged: dict[int, str] = {}
        self.deleted = 0
        self._url = url
        self._rand = random.Random(seed)
        self._left = 0

    async def run(self, operations: int) -> None:
        self._left = operations
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(self._write())

    async def _write(self) -> None:
        # A client of its own: a shared one spends most of its time on its pool.
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=30) as http:
            while self._left > 0:
                self._left -= 1
                await self._one(http)

    async def _one(self, http: httpx.AsyncClient) -> None:
        rand = self._rand
        verb = rand.choice(("POST", "PUT", "PATCH", "DELETE"))
        namespace, name = rand.choice(NAMESPACES), rand.choice(NAMES)
        answer = await write(http, verb, namespace, name, rand.randrange(1 << 30))
        if answer.status_code in (404, 409):
            return
        assert answer.is_success, answer.text
        if verb == "DELETE":
            self.deleted += 1
        else:
            version = int(answer.json()["metadata"]["resourceVersion"])
            self.acknowledged[version] = f"{namespace}/{name}"


async def write(
    http: httpx.AsyncClient, verb: str, namespace: str, name: str, mark: int = 0
) -> httpx.Response:
    """Create, replace, merge-patch or delete a policy; the mark makes it differ from before."""
    collection = f"{POLICIES}/namespaces/{namespace}/networkpolicys"
    path = collection if verb == "POST" else f"{collection}/{name}"
    metadata = {"name": name, "labels": {"mark": str(mark)}}
    match verb:
        case "PATCH":
            return await http.patch(path, json={"metadata": metadata}, headers=_MERGE)
        case "DELETE":
            return await http.delete(path)
    body: dict[str, Any] = {"kind": "NetworkPolicy", "metadata": metadata, "spec": {}}
    return await http.request(verb, path, json=body)


async def listed(http: httpx.AsyncClient) -> tuple[dict[str, int], int]:
    """The versions of all policies, and the list's."""
    body = (await http.get(f"{POLICIES}/networkpolicys")).json()
    metas = [item["metadata"] for item in body["items"]]
    items = {f"{m['namespace']}/{m['name']}": int(m["resourceVersion"]) for m in metas}
    return items, int(body["metadata"]["resourceVersion"])


async def history(http: httpx.AsyncClient, start: int, end: int) -> list[dict[str, Any]]:
    """Every change after a version up to another, from one watch without a proxy."""
    found: list[dict[str, Any]] = []
    params = {"watch": "true", "resourceVersion": str(start)}
    async with (
        asyncio.timeout(20),
        http.stream("GET", f"{POLICIES}/networkpolicys", params=params) as answer,
    ):
        async for text in answer.aiter_lines():
            event = json.loads(text)
            assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), text
            meta = event["object"]["metadata"]
            key, version = f"{meta['namespace']}/{meta['name']}", int(meta["resourceVersion"])
            found.append({"type": event["type"], "key": key, "version": version})
            if version >= end:
                break
    return found
