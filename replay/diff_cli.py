"""The command `stigmem replay diff`: its arguments (docs/audit.md); it ends as `stigmem replay audit` does."""

import argparse
from contextlib import closing

from node.times import parse_rfc3339
from replay.audit_cli import add_data_dir, run_on_evidence
from replay.checked_log import Evidence, NoSuchPlace, offset_of
from replay.diff import changes, ends_of
from replay.diff_report import write_json, write_text
from replay.shown import Output


def add_diff_command(commands: argparse._SubParsersAction, default_data_dir: str | None) -> None:
    parser = commands.add_parser("diff", help="what was added, changed and went between two places of the log")
    add_data_dir(parser, default_data_dir)
    for name, described in (
        ("from", "the state before the entry of this offset, or before this RFC 3339 time"),
        ("to", "likewise"),
    ):
        parser.add_argument(
            f"--{name}", dest=f"{name}_place", required=True, type=_place, metavar="PLACE", help=described
        )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(handler=run_diff)


def run_diff(arguments: argparse.Namespace) -> int:
    return run_on_evidence(
        arguments, lambda evidence, output: _diff(evidence, arguments, output), is_text=not arguments.json
    )


def _diff(evidence: Evidence, arguments: argparse.Namespace, output: Output) -> None:
    first, end = (offset_of(text, evidence) for text in (arguments.from_place, arguments.to_place))
    if first > end:
        raise NoSuchPlace(f"--from stands behind --to: offset {first} behind offset {end}")
    ends = ends_of(evidence, first, end)
    write = write_json if arguments.json else write_text
    with closing(changes(evidence, ends)) as found:
        write(found, ends, evidence, output)


def _place(text: str) -> str:
    """An offset or a time, to be found in the log when that is open."""
    if not (text.isascii() and text.isdecimal()):
        try:
            parse_rfc3339(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text}: no offset, and {error}") from error
    return text
