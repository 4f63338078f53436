"""What `bypass` finds: a way on this host by which packets may pass the policies unjudged."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """`BYPASSED`: traffic may go round the policies. `WARNING`: something to know beside them."""

    BYPASSED = "bypassed"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """`kind` is one of a few words, `subject` a device or a table.

    `text` is one line: what there is, why it matters, what to type.
    """

    kind: str
    subject: str
    text: str
    severity: Severity
