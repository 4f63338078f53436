"""What tests put into the cluster to be asked, or to judge, before something is stored."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.cluster.conftest import World

RULE = {
    "apiGroups": ["net.alpha.kubernetes.io"], "apiVersions": ["*"], "scope": "Namespaced",
    "operations": ["*"], "resources": ["networkpolicys"],
}  # fmt: skip


@contextlib.asynccontextmanager
async def configured(world: World, **objects: tuple[str, dict[str, Any]]) -> AsyncIterator[None]:
    """`kind=(name, object)` of the cluster's admission, followed by the servers."""
    for kind, (name, made) in objects.items():
        await world.place.control("admission", made, kind=kind, name=name)
    await asyncio.sleep(0.3)
    try:
        yield
    finally:
        for kind, (name, _) in objects.items():
            await world.place.control("admission", kind=kind, name=name)
        await asyncio.sleep(0.3)


@contextlib.asynccontextmanager
async def webhook(
    world: World, what: str, does: str = "", *, mutating: bool = False, **options: Any
) -> AsyncIterator[None]:
    """One in the cluster, which does what its name says or something else."""
    place, name = world.place, f"{what}.example.com"
    authority = (place.folder / "cluster-ca.pem").read_bytes()
    client = {
        "url": f"{place.url}/hook/{does or what}",
        "caBundle": base64.b64encode(authority).decode(),
    }
    found = {
        "name": name, "clientConfig": client, "rules": [RULE], "sideEffects": "None",
        "admissionReviewVersions": ["v1"], **options,
    }  # fmt: skip
    kind = f"{'mutating' if mutating else 'validating'}webhookconfigurations"
    async with configured(world, **{kind: (what, {"webhooks": [found]})}):
        yield
