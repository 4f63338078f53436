"""The policies that need no closer look: canonical spelling, plain label maps, nothing wrong.

Nearly all that are sent are such, and one compiled check costs a fraction of the search for each
thing that can be wrong. It takes fewer than are valid, never more; the search looks at the others.
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import CoreSchema, SchemaValidator
from pydantic_core import core_schema as core

NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
PART = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABELS = core.dict_schema(
    core.str_schema(pattern=rf"^({PART}(\.{PART})*/)?{NAME}$", max_length=253),
    core.str_schema(pattern=f"^({NAME})?$"),
)


def _closed(fields: dict[str, CoreSchema], *, required: bool = False) -> CoreSchema:
    """An object with these fields and no others."""
    known = {
        name: core.typed_dict_field(schema, required=required) for name, schema in fields.items()
    }
    return core.typed_dict_schema(known, extra_behavior="forbid", strict=True)


PEER = core.union_schema(
    [_closed({key: LABELS}, required=True) for key in ("pods", "namespaces")], mode="left_to_right"
)
PORT = _closed(
    {
        "port": core.int_schema(ge=1, le=65535, strict=True),
        "protocol": core.literal_schema(["TCP", "UDP", "SCTP"]),
    }
)
RULE = _closed({"from": core.list_schema(PEER), "toPorts": core.list_schema(PORT)})
RULES = core.union_schema([RULE, core.list_schema(RULE)], mode="left_to_right")
METADATA = core.typed_dict_schema(
    {
        "name": core.typed_dict_field(
            core.str_schema(pattern=rf"^{PART}(\.{PART})*$", max_length=253), required=True
        ),
        "namespace": core.typed_dict_field(core.str_schema(min_length=1), required=False),
        "labels": core.typed_dict_field(LABELS, required=False),
    },
    extra_behavior="forbid",
    strict=True,
)
POLICY = SchemaValidator(
    _closed(
        {
            "apiVersion": core.str_schema(),
            "kind": core.str_schema(),
            "metadata": METADATA,
            "spec": _closed({"podSelector": LABELS, "allowIncoming": RULES}),
        },
        required=True,
    ),
    config=core.CoreConfig(strict=True),
)


def is_plain(obj: Mapping[str, Any]) -> bool:
    """Whether a policy as it was sent, which may hold anything, is known to be right."""
    return POLICY.isinstance_python(obj)
