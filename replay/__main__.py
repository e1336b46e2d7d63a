"""`python -m replay verify ...`: the commands of `stigmem replay` without the node."""

import sys

from replay.cli import main
from replay.ending import ended

if __name__ == "__main__":
    sys.exit(ended(lambda: main(sys.argv[1:])))
