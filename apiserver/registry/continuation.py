"""The `continue` token of a list in pages: k8s.io/apiserver `pkg/storage/continue.go`.

The token holds all there is to know, so it survives restarts and works on every replica.
"""

import base64
from dataclasses import dataclass

import orjson

from apiserver.api import status

VERSION = "meta.k8s.io/v1"
INCONSISTENT = -1


@dataclass(frozen=True, slots=True)
class Continuation:
    """Go on after `last` (a key relative to the collection) as of `revision`.

    `revision` -1 is an inconsistent continuation: at the newest state.
    """

    revision: int
    last: str

    def encode(self) -> str:
        body = orjson.dumps({"v": VERSION, "rv": self.revision, "start": self.last + "\0"})
        return base64.urlsafe_b64encode(body).rstrip(b"=").decode()

    @classmethod
    def decode(cls, token: str) -> "Continuation":
        """400 with upstream's reasons for a token that this server never gave."""
        try:
            padded = token + "=" * (-len(token) % 4)
            body = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except orjson.JSONDecodeError as error:
            raise _invalid("invalid character in token") from error
        except ValueError as error:
            raise _invalid("illegal base64 data") from error
        if not isinstance(body, dict) or body.get("v") != VERSION:
            version = body.get("v") if isinstance(body, dict) else ""
            raise _invalid(f"server does not recognize this encoded version {version}")
        revision, start = body.get("rv"), body.get("start")
        if not isinstance(revision, int) or revision == 0 or revision < INCONSISTENT:
            raise _invalid(f"incorrect encoded start resourceVersion (version {VERSION})")
        if not isinstance(start, str) or not start.rstrip("\0"):
            raise _invalid(f"encoded start key empty (version {VERSION})")
        if ".." in start.split("/") or start.startswith("/"):
            raise _invalid(f"invalid encoded start key {start!r}")
        return cls(revision, start.removesuffix("\0"))


def _invalid(why: str) -> status.StatusError:
    return status.bad_request(f"invalid continue token: continue key is not valid: {why}")
