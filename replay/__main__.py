"""`python -m replay verify ...`: the commands of `stigmem replay` without the node."""

import sys

from replay.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
