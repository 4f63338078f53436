"""`python -m bench`: run the cases and print what they measure, each against its target.

Exit status 1: a target is missed. A `--quick` run is too short to judge by, so it ends with 0
whatever it measures; it shows that every case still runs.
"""

import argparse
import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.pairs import Outcome


def main() -> None:
    # Not at the top: a process that works aside imports this module, and wants none of them.
    from bench import cases, report, runtime
    from bench.scale import FULL, QUICK

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a run of seconds that judges nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--only", default="", help=f"topics, separated by commas: {', '.join(cases.TOPICS)}"
    )
    parser.add_argument(
        "--database-url",
        default=FULL.database_url,
        help="what the server stores in while it is read and watched",
    )
    options = parser.parse_args()
    try:
        topics = cases.chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    scale = replace(QUICK if options.quick else FULL, database_url=options.database_url)
    runtime.prepare()

    async def run() -> "list[Outcome]":
        """The cases block the loop on purpose: nothing else may run here while they measure."""
        outcomes = []
        for topic in topics:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                found = await cases.TOPICS[topic](Path(folder), scale)
            if not options.json:
                for outcome in found:
                    print(report.row(outcome), flush=True)
            outcomes += found
        return outcomes

    if not options.json:
        print(report.head(), flush=True)
    outcomes = asyncio.run(run())
    if options.json:
        print(report.document(outcomes, quick=options.quick))
    if not options.quick and not all(outcome.met for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
