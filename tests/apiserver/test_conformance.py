"""The page that says which behaviours are held says the truth: each has a test that names it."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "conformance.md"


def test_every_row_that_is_held_has_a_test_that_names_it() -> None:
    rows = re.findall(r"^\| ([A-Z]+-\d+) \|.*\| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len({row for row, _ in rows}) > 150
    sources = [*(TESTS / "apiserver").rglob("test_*.py")]
    sources += [
        path for part in ("cluster", "e2e", "storage") for path in (TESTS / part).glob("test_*.py")
    ]
    named: set[str] = set()
    for source in sources:
        for name in re.findall(r"def test_(\w+)", source.read_text()):
            named |= set(re.findall(r"(?:^|_)([A-Z]+\d{2})(?=_)", name))
    for row, verdict in rows:
        under = re.search(r"under ([A-Z]+-\d+)", verdict)
        wanted = (under[1] if under else row).replace("-", "")
        if not verdict.startswith("not held: "):
            assert wanted in named, f"{row} is said to be {verdict!r}, and no test names it"
