"""How many policies a namespace may hold: ResourceQuota with `count/…`. Pure.

The cluster's quota controller counts what there is; to refuse what would be too much is left to
whoever serves the resource (k8s.io/apiserver `pkg/admission/plugin/resourcequota`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from apiserver.api import status
from apiserver.api.resource import Resource

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def check(
    quotas: Iterable[Mapping[str, Any]], resource: Resource, name: str, count: Callable[[], int]
) -> None:
    """403 where one more would be too many. `quotas` are those of the namespace."""
    key = f"count/{resource.qualified}"
    for quota in quotas:
        hard = ((quota.get("spec") or {}).get("hard") or {}).get(key)
        limit = None if hard is None else quantity(str(hard))
        if limit is not None and (used := count()) + 1 > limit:
            owner = (quota.get("metadata") or {}).get("name")
            raise status.forbidden(
                resource,
                name,
                f"exceeded quota: {owner}, requested: {key}=1, used: {key}={used},"
                f" limited: {key}={hard}",
            )


def quantity(text: str) -> int | None:
    """A whole number as a quantity writes it; None for any that is not."""
    found = re.fullmatch(r"([0-9]+)([a-zA-Z]*)", text)
    if found is None or found[2] not in SUFFIXES:
        return None
    return int(found[1]) * SUFFIXES[found[2]]
