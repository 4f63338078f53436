"""The sites whose pages may use the server, as `--cors-allowed-origins` names them."""

import re
from collections.abc import Sequence

Origins = Sequence[re.Pattern[str]]


def parse(expressions: Sequence[str]) -> Origins:
    """What an Origin may match anywhere. `ValueError`: each must hold on to both ends of its host.

    Else `example.com` would let in `example.com.evil.org` (CVE-2022-1996). The rule is upstream's
    (`pkg/server/options/server_run_options.go`).
    """
    found = []
    for text in expressions:
        try:
            found.append(re.compile(text))
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from error
        if not (("^" in text or "//" in text) and ("$" in text or ":" in text)):
            raise ValueError(
                f"regular expression {text!r} does not pin to start/end of host in the origin"
                r" header; write it as ^https://example\.com(:|$)"
            )
    return found
