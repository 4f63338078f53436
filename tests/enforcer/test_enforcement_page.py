"""The page of guarantees says the truth: each row has a test that names it."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "enforcement.md"


def test_every_row_has_a_test_that_names_it() -> None:
    rows = re.findall(r"^\| (D\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == [f"D{number:02}" for number in range(1, 41)]
    named: set[str] = set()
    for folder in ("enforcer", "netns"):
        for source in (TESTS / folder).rglob("test_*.py"):
            for name in re.findall(r"def test_(\w+)", source.read_text()):
                named |= set(re.findall(r"(?:^|_)(D\d\d)(?=_)", name))
    assert set(rows) - named == set()
