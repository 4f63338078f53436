"""The spellings of 2016, brought to the canonical one (semantics: "Spellings of the time").

The API server calls it on every write, before anything looks at the fields; `parse` calls it on
what a watch brings. Only names of fields change, never a value: what is wrong stays wrong and is
refused by `validate`.
"""

from collections.abc import Mapping
from typing import Any

from policy.errors import FieldError, InvalidPolicy

OUTSIDE = frozenset({"kind", "apiVersion", "metadata", "status", "spec"})
SPEC = {"applyTo": "podSelector", "ingress": "allowIncoming", "inbound": "allowIncoming"}
RULE = {"ports": "toPorts"}
PEER = {"podSelector": "pods", "namespaceSelector": "namespaces"}
POLICY_KEYS = frozenset({"podSelector", "allowIncoming", *SPEC})

Json = dict[str, Any]


def normalise(obj: Mapping[str, Any]) -> tuple[Json, list[str]]:
    """The object in canonical spelling, with a warning for each field that was renamed.

    The input is left as it is. `InvalidPolicy` where one field has two spellings at once.
    """
    renaming = _Renaming()
    result = dict(obj)
    if "spec" not in obj and POLICY_KEYS & obj.keys():
        # All of them: a misspelt one must be refused as part of the spec, not dropped.
        moved = {key: result.pop(key) for key in obj if key not in OUTSIDE}
        renaming.warnings.append(
            "the policy's fields stand at top level; they were moved into spec"
        )
        result["spec"] = moved
    if isinstance(result.get("spec"), Mapping):
        spec = renaming.rename(result["spec"], SPEC, "spec")
        result["spec"] = spec
        if "allowIncoming" in spec:
            spec["allowIncoming"] = renaming.rules(spec["allowIncoming"], "spec.allowIncoming")
    if renaming.errors:
        raise InvalidPolicy(renaming.errors)
    return result, renaming.warnings


class _Renaming:
    """Collects the warnings and errors of one object on the way through its levels."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.errors: list[FieldError] = []

    def rename(self, level: Mapping[str, Any], names: Mapping[str, str], path: str) -> Json:
        """The level with its old names replaced, each in its place."""
        if names.keys().isdisjoint(level):
            return dict(level)
        result: Json = {}
        spelt: dict[str, str] = {}
        for key, value in level.items():
            name = names.get(key, key)
            if name in spelt:
                other = spelt[name]
                self.errors.append(
                    FieldError(
                        f"{path}.{key}",
                        "FieldValueForbidden",
                        f"Forbidden: {other} and {key} are two spellings of one field;"
                        f" keep {name} only",
                    )
                )
            elif name != key:
                self.warnings.append(
                    f"{path}.{key} is an old spelling; it was stored as {path}.{name}"
                )
            spelt[name] = key
            result[name] = value
        return result

    def rules(self, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [self.rule(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return self.rule(value, path)

    def rule(self, value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return value
        rule = self.rename(value, RULE, path)
        peers = rule.get("from")
        if isinstance(peers, list):
            rule["from"] = [
                self.rename(peer, PEER, f"{path}.from[{index}]")
                if isinstance(peer, Mapping)
                else peer
                for index, peer in enumerate(peers)
            ]
        return rule
