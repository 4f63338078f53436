"""`python -m bench`: run all cases and print their ratios.

Exit status 1: a ratio is under its target. A `--quick` run is too short to judge by, so it ends
with 0 whatever it measures; it shows that every case still runs.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench import cases, report, servers
from bench.pairs import Outcome


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a run of seconds that judges nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--database-url", default="memory:", help="what the server stores in")
    options = parser.parse_args()
    outcomes = asyncio.run(_run(cases.QUICK if options.quick else cases.FULL, options.database_url))
    print(
        report.document(outcomes, quick=options.quick) if options.json else report.table(outcomes)
    )
    if not options.quick and not all(outcome.met for outcome in outcomes):
        sys.exit(1)


async def _run(scale: cases.Scale, database_url: str) -> list[Outcome]:
    """The cases block the loop on purpose: nothing else may run here while they measure."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        async with servers.ours(folder, database_url) as url:
            return [*await cases.reads(url, folder, scale), await cases.watch(url, folder, scale)]


if __name__ == "__main__":
    main()
