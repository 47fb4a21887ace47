"""``python -m bench [--only b3 b5 ...] [--rounds N] [--scale F]``: run benchmarks, print and keep a table for each."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from bench import fleet, footprint, hooks, language, measure, pipeline, postgres, relay
from bench.measure import Row

Benchmark = Callable[[argparse.Namespace], Awaitable[list[Row]]]


async def _in_place(run: Callable[[int], list[Row]], args: argparse.Namespace) -> list[Row]:
    """A benchmark without processes and connections."""
    return run(args.rounds)


BENCHMARKS: dict[str, tuple[str, Benchmark]] = {
    "b1": ("B1 chain engine", lambda args: _in_place(language.run, args)),
    "b2": ("B2 relay", lambda args: relay.run(args.rounds, args.scale)),
    "b3": ("B3 status pipeline", lambda args: pipeline.run(args.rounds, args.scale)),
    "b3-postgres": ("B3 status pipeline on PostgreSQL", lambda args: postgres.run(args.rounds, args.scale)),
    "b3-fleet": ("B3 many nodes", lambda args: fleet.run(args.rounds, args.scale)),
    "b4": ("B4 hooks", lambda args: _in_place(hooks.run, args)),
    "b5": ("B5 footprint", lambda args: footprint.run(args.rounds, args.scale, args.messages)),
}


def main() -> None:
    """Run what was chosen."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="run only these")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case; medians are shown")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the sizes, for a quick look")
    parser.add_argument(
        "--messages", type=int, default=footprint.RELAYED, help="messages to relay in B5; its bar is at 10000000"
    )
    args = parser.parse_args()
    for name in args.only:
        title, benchmark = BENCHMARKS[name]
        rows = asyncio.run(benchmark(args))  # type: ignore[arg-type]
        print(f"{title}, {measure.machine()}\n")
        print(measure.table(rows))
        print(f"\nkept in {measure.save(name, rows)}\n", flush=True)


if __name__ == "__main__":
    main()
