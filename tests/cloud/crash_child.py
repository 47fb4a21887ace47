"""A process that commits in a loop and says what was confirmed, for the test that kills it.

Usage: ``python -m tests.cloud.crash_child DIRECTORY FIRST``. Begins at the sequence FIRST; every line on standard
output is a ``through`` that a commit returned.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.cloud.samples import bad, ok, open_store, status


async def commit_for_ever(directory: Path, first: int) -> None:
    async with open_store(directory) as store:
        sequence = first
        while True:
            batch = [status(n, [ok(), ok(), bad()], low=sequence) for n in range(sequence, sequence + 8)]
            outcome = await store.commit(batch)
            sequence = outcome.confirmed[0].through + 1
            sys.stdout.write(f"{sequence - 1}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(commit_for_ever(Path(sys.argv[1]), int(sys.argv[2])))
