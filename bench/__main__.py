"""``python -m bench [--rounds N] [--scale F]``: run the benchmarks, print a table of each, keep the record."""

from __future__ import annotations

import argparse
import asyncio

from bench import language, measure, pipeline


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case; medians are shown")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the sizes, for a quick look")
    args = parser.parse_args()
    chains = language.run(args.rounds)
    print(f"B1 chain engine, {measure.machine()}\n")
    print(measure.table(chains))
    print(f"\nkept in {measure.save('b1', chains)}\n")
    rows = asyncio.run(pipeline.run(args.rounds, args.scale))
    print(f"B3 status pipeline, {measure.machine()}\n")
    print(measure.table(rows))
    print(f"\nkept in {measure.save('b3', rows)}")


if __name__ == "__main__":
    main()
