"""The commands `stigmem replay verify` and `stigmem replay rebuild`, beside those of `audit_cli.py`, also as `python -m replay`.

Always: results on stdout, trouble on stderr in one line. Exit code 0: sound; 2: could not be done; 6: damage, which the
last line of stdout names too.

Does not read the environment: where the folder is otherwise set, the caller passes it on (`default_data_dir`).
"""

import argparse
import re
import sys
from pathlib import Path

from node.errors import Refusal
from node.events.log import UnknownFormat
from node.folder_lock import FolderInUse
from replay.audit_cli import add_audit_command
from replay.chain import Damaged, NotALog
from replay.copying import CopyFailed
from replay.diff_cli import add_diff_command
from replay.rebuild import rebuild_views
from replay.verify import NotExtended, SizeAndRoot, verify

OK, NOT_DONE, DAMAGED = 0, 2, 6
_DESCRIPTION = "check the log, tell what is in it, or make the views anew"
_HEAD = re.compile(r"(0|[1-9][0-9]{0,17}):([0-9a-f]{64})")


def add_replay_commands(subparsers: argparse._SubParsersAction, default_data_dir: str | None = None) -> None:
    """Add the commands of `replay`; each sets `handler`, a function from arguments to exit code."""
    replay = subparsers.add_parser("replay", help=_DESCRIPTION)
    _add_commands(replay.add_subparsers(dest="replay_command", required=True, metavar="COMMAND"), default_data_dir)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m replay", description=_DESCRIPTION)
    _add_commands(parser.add_subparsers(dest="replay_command", required=True, metavar="COMMAND"), None)
    parsed = parser.parse_args(arguments)
    return parsed.handler(parsed)


def run_verify(arguments: argparse.Namespace) -> int:
    try:
        head = verify(arguments.data_dir, arguments.expect_head, print)
    except Damaged as damage:
        return _report_damage(damage)
    except NotExtended as error:
        print(error, file=sys.stderr)
        print(error)
        return DAMAGED
    except (NotALog, UnknownFormat, CopyFailed, Refusal, OSError) as error:
        return _report_trouble(error)
    print(f"head {head}")
    return OK


def run_rebuild(arguments: argparse.Namespace) -> int:
    try:
        digests, head = rebuild_views(arguments.data_dir)
    except Damaged as damage:
        return _report_damage(damage)
    except (NotALog, UnknownFormat, FolderInUse, Refusal, OSError) as error:
        return _report_trouble(error)
    for name, digest in digests.items():
        print(name, digest)
    print(f"head {head}")
    return OK


def parse_head(text: str) -> SizeAndRoot:
    """SIZE:ROOT as `verify` prints it. ArgumentTypeError where it is none."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("a head is SIZE:ROOT, a number and 64 lower-case hex digits")
    return SizeAndRoot(int(match[1]), bytes.fromhex(match[2]))


def _add_commands(commands: argparse._SubParsersAction, default_data_dir: str | None) -> None:
    checks = commands.add_parser(
        "verify", help="check the log and its views; changes nothing, works beside a running node"
    )
    _add_data_dir(checks, default_data_dir)
    checks.add_argument(
        "--expect-head", type=parse_head, metavar="SIZE:ROOT", help="fail unless the log continues this head"
    )
    checks.set_defaults(handler=run_verify)
    rebuilds = commands.add_parser("rebuild", help="fold the log into new views; the node must be stopped")
    _add_data_dir(rebuilds, default_data_dir)
    rebuilds.set_defaults(handler=run_rebuild)
    add_audit_command(commands, default_data_dir)
    add_diff_command(commands, default_data_dir)


def _add_data_dir(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=default and Path(default),
        required=default is None,
        help="the node's data folder",
    )


def _report_damage(damage: Damaged) -> int:
    offset = "unknown" if damage.offset is None else damage.offset
    print(f"offset {offset}: {damage.words}", file=sys.stderr)
    print(f"damaged at offset {offset}: {damage.words}")
    return DAMAGED


def _report_trouble(error: Exception) -> int:
    detail = error.detail if isinstance(error, Refusal) else str(error)
    print(f"stigmem: {' '.join(detail.split())}", file=sys.stderr)
    return NOT_DONE
