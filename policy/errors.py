"""What is wrong with an object: one error a field, in the words of Kubernetes' field errors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldError:
    """`message` says the value, the reason and the fix, but not the field."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class InvalidPolicy(Exception):
    """An object that is no valid NetworkPolicy, with every error that was found."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


def required(field: str, why: str) -> FieldError:
    return FieldError(field, "FieldValueRequired", f"Required value: {why}")


def invalid(field: str, value: Any, why: str) -> FieldError:
    return FieldError(field, "FieldValueInvalid", f"Invalid value: {shown(value)}: {why}")


def wrong_type(field: str, value: Any, wanted: str) -> FieldError:
    message = f"Invalid value: {shown(value)}: must be {wanted}"
    return FieldError(field, "FieldValueTypeInvalid", message)


def unsupported(field: str, value: Any, supported: Sequence[str]) -> FieldError:
    values = ", ".join(f'"{item}"' for item in supported)
    message = f"Unsupported value: {shown(value)}: supported values: {values}"
    return FieldError(field, "FieldValueNotSupported", message)


def forbidden(field: str, why: str) -> FieldError:
    return FieldError(field, "FieldValueForbidden", f"Forbidden: {why}")


def shown(value: Any) -> str:
    """The value as JSON, cut where it is long: messages are for people."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
