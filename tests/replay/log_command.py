"""`stigmem log` in this process: what it says and how it ends, without the second that starting a process takes."""

import argparse
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import TextIO

from node.log_console import NodeLog
from replay.log_cli import add_log_commands
from tests.replay.folders import Result


def run_log(
    *arguments: object, url: str = "http://localhost:1", bearer: str | None = None, terminal: TextIO | None = None
) -> Result:
    """`stigmem log ARGUMENTS`; a node that is asked is the one at `url`. What it says goes to `terminal` where one is given."""
    parser = argparse.ArgumentParser(prog="stigmem")
    add_log_commands(parser.add_subparsers(), lambda: NodeLog(url=url, bearer=bearer), None)
    parsed = parser.parse_args(["log", *map(str, arguments)])
    said = StringIO()
    with redirect_stdout(terminal or said), redirect_stderr(StringIO()) as trouble:
        code = parsed.handler(parsed)
    assert len(trouble.getvalue().splitlines()) == (code != 0), trouble.getvalue()
    return Result(code, said.getvalue(), trouble.getvalue())
