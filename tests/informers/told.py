"""How an informer's process tells the test what it was told: a line for each list and event."""

import json
import sys
from collections.abc import Mapping
from typing import Any


def listed(body: Mapping[str, Any]) -> None:
    items = {_key(item): _version(item) for item in body["items"]}
    _say({"type": "LIST", "version": int(body["metadata"]["resourceVersion"]), "items": items})


def change(kind: str, obj: Mapping[str, Any]) -> None:
    _say({"type": kind, "key": _key(obj), "version": _version(obj)})


def _key(obj: Mapping[str, Any]) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _version(obj: Mapping[str, Any]) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
