"""kubectl through the aggregator's stand-in, while servers and their certificates come and go."""

import asyncio
import json
import os
import shutil
import time

import pytest

from tests.cluster.conftest import World, policy

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl here")

MANIFEST = """\
apiVersion: net.alpha.kubernetes.io/v1alpha1
kind: NetworkPolicy
metadata: {name: %s, namespace: %s}
spec:
  podSelector: {app: web}
  allowIncoming: {toPorts: [{port: 80, protocol: TCP}]}
"""


async def kubectl(
    world: World, token: str, *words: str, feed: str = "", fails: bool = False
) -> str:
    """What it printed; its exit status is checked."""
    user = token.removesuffix("-token")
    config = world.place.kubeconfig(user, token)
    process = await asyncio.create_subprocess_exec(
        "kubectl", "--kubeconfig", str(config), *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "HOME": str(world.place.folder / user)},
    )  # fmt: skip
    output, _ = await process.communicate(feed.encode())
    assert bool(process.returncode) is fails, output.decode()
    return output.decode()


async def test_AG06_admin_editor_and_a_stranger(world: World, name: str) -> None:
    there = MANIFEST % (name, "team-a")
    assert "created" in await kubectl(world, "admin-token", "apply", "-f", "-", feed=there)
    told = await kubectl(world, "admin-token", "get", "networkpolicys", "-A")
    assert name in told
    assert "80/TCP" in told
    assert "KIND:" in await kubectl(world, "admin-token", "explain", "networkpolicys.spec")
    refused = await kubectl(world, "bob-token", "get", "anp", "-n", "team-a", fails=True)
    assert refused.startswith("Error from server (Forbidden): networkpolicys.net.alpha.kubernetes")
    assert 'User "bob" cannot list resource "networkpolicys"' in refused
    own = await kubectl(world, "editor-token", "label", "anp", name, "a=b", "-n", "team-a")
    assert "labeled" in own
    other = MANIFEST % (name, "default")
    refused = await kubectl(world, "editor-token", "create", "-f", "-", feed=other, fails=True)
    assert 'in the namespace "default"' in refused
    assert "deleted" in await kubectl(world, "editor-token", "delete", "anp", name, "-n", "team-a")


async def test_FC08_AG02_no_error_while_a_server_dies_and_certificates_rotate(
    fragile: World,
) -> None:
    """kubectl works on, one call after the other, through all of it."""
    world, place = fragile, fragile.place
    one, two = world.replicas
    calls, stop = 0, asyncio.Event()

    async def work() -> None:
        nonlocal calls
        while not stop.is_set():
            text = MANIFEST % (f"during-{calls}", "team-a")
            await kubectl(world, "admin-token", "apply", "-f", "-", feed=text)
            await kubectl(world, "admin-token", "get", "anp", f"during-{calls}", "-n", "team-a")
            calls += 1

    async def until_more() -> None:
        wanted = calls + 2
        while calls < wanted and not working.done():
            await asyncio.sleep(0.05)

    working = asyncio.create_task(work())
    await until_more()
    await one.kill()
    await until_more()
    await one.start()
    await one.until_ready()
    await place.until_available(one, two)
    await two.stop()  # an upgrade: in order
    await until_more()
    await two.start()
    await two.until_ready()
    await place.until_available(one, two)
    for renew in (place.certificates.renew_serving, place.certificates.renew_proxy):
        renew()
        await until_more()
    await _until_logged(world, "serving certificate read again")
    await until_more()
    stop.set()
    await working
    assert calls > 8


async def test_AG05_a_watch_goes_on_through_the_other_server(fragile: World) -> None:
    """An informer's view: cut off by a kill, it resumes where it was, and misses nothing."""
    place = fragile.place
    path = "/apis/net.alpha.kubernetes.io/v1alpha1/namespaces/team-a/networkpolicys"
    seen: list[str] = []
    version = ""

    async def watch() -> None:
        nonlocal version
        async with place.as_user("editor-token") as http:
            while True:
                query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
                try:
                    async with http.stream("GET", path, params=query) as response:
                        async for line in response.aiter_lines():
                            event = json.loads(line)
                            version = event["object"]["metadata"]["resourceVersion"]
                            if event["type"] == "ADDED":
                                seen.append(event["object"]["metadata"]["name"])
                except Exception:  # noqa: BLE001  whatever a cut looks like
                    await asyncio.sleep(0.1)

    async with place.as_user("editor-token") as http:
        version = (await http.get(path)).json()["metadata"]["resourceVersion"]
        task = asyncio.create_task(watch())
        for number, victim in enumerate((None, *fragile.replicas)):
            if victim is not None:
                await victim.kill()
            made = await http.post(path, json=policy(f"watched-{number}"))
            assert made.status_code == 201, made.text
            if victim is not None:
                await victim.start()
                await victim.until_ready()
                await place.until_available(*fragile.replicas)
        async with asyncio.timeout(20):
            while len(seen) < 3:
                await asyncio.sleep(0.05)
        task.cancel()
    assert seen == ["watched-0", "watched-1", "watched-2"]


async def _until_logged(world: World, event: str, *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not all(replica.events(event) for replica in world.replicas):
        assert time.monotonic() < deadline, event
        await asyncio.sleep(0.1)
