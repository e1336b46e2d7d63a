"""`python -m tests.simulation SEED...`: run the schedules of these seeds alone, and say what each came to."""

import asyncio
import sys

from tests.simulation.schedule import ScheduleFailed, run_schedule


def main(seeds: list[str]) -> int:
    if not seeds:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for seed in seeds:
            roots = asyncio.run(run_schedule(int(seed))).roots
            print(f"seed {seed}: holds; " + ", ".join(f"{name} {root.hex()[:16]}" for name, root in roots.items()))
    except ScheduleFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
