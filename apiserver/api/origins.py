"""The sites whose pages may use the server, as `--cors-allowed-origins` names them."""

from collections.abc import Sequence
from typing import Protocol


class Pattern(Protocol):
    """A regular expression that takes time in proportion to the text, whatever the text is."""

    def search(self, text: str) -> object: ...


Origins = Sequence[Pattern]


def parse(expressions: Sequence[str]) -> Origins:
    """What an Origin may match anywhere. `ValueError`: each must hold on to both ends of its host.

    Else `example.com` would let in `example.com.evil.org` (CVE-2022-1996). The rule is upstream's
    (`pkg/server/options/server_run_options.go`), and so is the syntax, RE2's.
    """
    if not expressions:
        return ()
    import re2  # of few servers; anybody's Origin meets it, for which `re` could take for ever

    options = re2.Options()
    options.log_errors = False
    found: list[Pattern] = []
    for text in expressions:
        try:
            found.append(re2.compile(text, options))
        except re2.error as error:
            why = error.args[0].decode(errors="replace")
            raise ValueError(f"{text!r} is no regular expression: {why}") from error
        if not (("^" in text or "//" in text) and ("$" in text or ":" in text)):
            raise ValueError(
                f"regular expression {text!r} does not pin to start/end of host in the origin"
                r" header; write it as ^https://example\.com(:|$)"
            )
    return found
