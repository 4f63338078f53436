"""Bearer tokens, which the cluster knows: `authentication.k8s.io/v1` TokenReview."""

import hashlib
import hmac
import os
import random
import time
from collections.abc import Callable
from typing import Any

from apiserver.auth.reviews import Counted, Kept, review
from apiserver.auth.user import User
from apiserver.cluster.client import Cluster, Refused, Unreachable

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
KEEP = 10.0  # seconds, as upstream's `--authentication-token-webhook-cache-ttl`
LIMIT = 4096  # answers
LONGEST = 64 * 1024  # bytes of a token


class Tokens:
    """Asks whose a token is. Only a keyed hash of it is remembered."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        keep: float = KEEP,
        clock: Callable[[], float] = time.monotonic,
        rand: random.Random,
    ) -> None:
        self._cluster = cluster
        self._key = os.urandom(32)
        self._rand = rand
        self.counted = Counted()
        self._kept: Kept[User | str] = Kept(
            lambda _: keep, limit=LIMIT, clock=clock, counted=self.counted
        )

    async def user(self, token: str) -> User:
        """`ValueError` with the reason where it is nobody's, or the cluster cannot be asked."""
        if len(token) > LONGEST:
            raise ValueError("the token is too long")
        digest = hmac.digest(self._key, token.encode(), hashlib.sha256)
        try:
            found = await self._kept.get(digest, lambda: self._ask(token))
        except (Refused, Unreachable, TimeoutError) as error:
            raise ValueError(f"the token cannot be checked: {error}") from error
        if isinstance(found, str):
            raise ValueError(found)
        return found

    async def _ask(self, token: str) -> User | str:
        body = {
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "spec": {"token": token},
        }
        status = await review(self._cluster, PATH, body, self._rand, self.counted)
        if not status.get("authenticated"):
            return str(status.get("error") or "invalid bearer token")
        return _user(status.get("user"))


def _user(found: Any) -> User | str:
    if not isinstance(found, dict) or not found.get("username"):
        return "the cluster names no user for the token"
    extra = found.get("extra") or {}
    return User(
        str(found["username"]),
        str(found.get("uid") or ""),
        tuple(map(str, found.get("groups") or ())),
        {str(key).lower(): tuple(map(str, values or ())) for key, values in extra.items()},
    )
