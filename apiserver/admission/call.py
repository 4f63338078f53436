"""Ask a webhook: an AdmissionReview there and back."""

import asyncio
import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from apiserver.admission.webhooks import Webhook

LARGEST = 16 << 20  # bytes of an answer
CLOSE_AFTER = 60.0  # seconds: no webhook may take as long
MALFORMED = (ValueError, TypeError, AttributeError, KeyError)  # of an answer that anyone may send
CLIENTS = 64  # webhooks whose connections are kept

Json = dict[str, Any]


class Failed(Exception):
    """It could not be asked, or its answer makes no sense."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`patch` is a JSON patch; `code` and `message` say why it is not `allowed`."""

    allowed: bool
    patch: list[Json]
    warnings: tuple[str, ...]
    annotations: Mapping[str, str]
    code: int
    message: str
    reason: str


class Caller:
    """Keeps a connection pool for each webhook, as long as its address and authority stay."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], httpx.AsyncClient] = {}

    async def ask(self, webhook: Webhook, request: Json) -> Answer:
        """`Failed`."""
        review = {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": request,
        }
        if webhook.broken:
            raise Failed(webhook.broken)
        try:
            async with asyncio.timeout(webhook.timeout):
                content = await self._post(webhook, orjson.dumps(review))
            return _answer(orjson.loads(content), str(request["uid"]))
        except TimeoutError as error:
            raise Failed(f'Post "{webhook.url}": no answer in {webhook.timeout:g} s') from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, *MALFORMED) as error:
            raise Failed(f'Post "{webhook.url}": {error or type(error).__name__}') from error

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _post(self, webhook: Webhook, body: bytes) -> bytes:
        """What a webhook answers; `timeout` of it is the caller's to watch."""
        content = b""
        async with self._client(webhook).stream(
            "POST",
            webhook.url,
            content=body,
            params={"timeout": f"{webhook.timeout:.0f}s"},
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            timeout=None,
        ) as response:
            if response.status_code != 200:
                raise Failed(f"the server answered {response.status_code}")
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST:
                    raise Failed(f"its answer is larger than {LARGEST} bytes")
        return content

    def _client(self, webhook: Webhook) -> httpx.AsyncClient:
        key = (webhook.url, webhook.authority)
        client = self._clients.get(key)
        if client is None:
            context = ssl.create_default_context(cadata=webhook.authority or None)
            client = self._clients[key] = httpx.AsyncClient(verify=context, trust_env=False)
            if len(self._clients) > CLIENTS:
                # Requests under way in it go on: it is closed when they are long done.
                old = self._clients.pop(next(iter(self._clients)))
                loop = asyncio.get_running_loop()
                loop.call_later(CLOSE_AFTER, lambda: loop.create_task(old.aclose()))
        return client


def _answer(review: Any, uid: str) -> Answer:
    found = review.get("response") if isinstance(review, dict) else None
    if not isinstance(found, dict):
        raise Failed("the answer has no response")
    if found.get("uid") != uid:
        raise Failed(f"expected response.uid={uid}, got {found.get('uid')!r}")
    status = found.get("status") or {}
    return Answer(
        allowed=found.get("allowed") is True,
        patch=_patch(found),
        warnings=tuple(map(str, found.get("warnings") or ())),
        annotations=found.get("auditAnnotations") or {},
        code=int(status.get("code") or 0),
        message=str(status.get("message") or ""),
        reason=str(status.get("reason") or ""),
    )


def _patch(found: Json) -> list[Json]:
    if not found.get("patch"):
        return []
    if found.get("patchType") != "JSONPatch":
        raise Failed(f"patchType {found.get('patchType')!r} is not JSONPatch")
    try:
        patch = orjson.loads(base64.b64decode(found["patch"], validate=True))
    except (binascii.Error, orjson.JSONDecodeError) as error:
        raise Failed(f"its patch cannot be read: {error}") from error
    if not isinstance(patch, list):
        raise Failed("its patch is no list")
    return patch
