"""The commands `stigmem replay verify` and `stigmem replay rebuild`, beside those of `audit_cli.py`, also as `python -m replay`.

Always: results on stdout, trouble on stderr in one line. Exit code 0: sound; 2: could not be done; 6: damage, which the
last line of stdout names too, or with `--json` the one document there.

Does not read the environment: where the folder is otherwise set, the caller passes it on (`default_data_dir`).
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import msgspec

from node.errors import Refusal
from node.events.log import UnknownFormat
from node.folder_lock import FolderInUse
from node.projections import PROJECTIONS
from replay.audit_cli import add_audit_command, add_data_dir
from replay.chain import Damaged, NotALog
from replay.copying import CopyFailed
from replay.diff_cli import add_diff_command
from replay.ending import say, say_raw
from replay.rebuild import Rebuilt, rebuild_views, try_rebuild
from replay.shown import plain, readable
from replay.snapshots.manifest import NotASnapshot, NotTrusted
from replay.snapshots.restore import materialised
from replay.verify import Extent, NoSuchRange, NotExtended, SizeAndRoot, verify
from replay.workers import NotDone

OK, NOT_DONE, DAMAGED = 0, 2, 6
_DESCRIPTION = "check the log, tell what is in it, or make the views anew"
_MAX_WORKERS = 64
_RESULTS = {SizeAndRoot: "sound", Damaged: "damaged", NotExtended: "not_extended"}
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
    notes: list[str] = []
    extent = Extent(arguments.first, arguments.end, arguments.quick)
    report = _json_report(arguments, extent, notes) if arguments.json else _plain_report
    try:
        with _folder(arguments) as data_dir:
            head = verify(
                data_dir,
                arguments.expect_head,
                notes.append if arguments.json else say,
                extent=extent,
                workers=arguments.workers,
            )
    except Damaged as damage:
        return report(DAMAGED, damage)
    except NotExtended as error:
        return report(DAMAGED, error)
    except KeyboardInterrupt:
        return report(NOT_DONE, NotDone("interrupted"))
    except (NotALog, NotDone, NoSuchRange, NotASnapshot, NotTrusted, CopyFailed, Refusal, OSError) as error:
        return report(NOT_DONE, error)
    return report(OK, head)


def _folder(arguments: argparse.Namespace) -> AbstractContextManager[Path]:
    return materialised(arguments.snapshot) if arguments.snapshot else nullcontext(arguments.data_dir)


def run_rebuild(arguments: argparse.Namespace) -> int:
    report = _json_rebuilt(arguments) if arguments.json else _plain_rebuilt(arguments)
    try:
        found = (try_rebuild if arguments.dry_run else rebuild_views)(arguments.data_dir, arguments.only)
    except Damaged as damage:
        return report(DAMAGED, damage)
    except KeyboardInterrupt:
        return report(NOT_DONE, NotDone("interrupted; the views are as they were"))
    except (NotALog, NotDone, UnknownFormat, CopyFailed, FolderInUse, Refusal, OSError) as error:
        return report(NOT_DONE, error)
    return report(OK, found)


def _plain_rebuilt(arguments: argparse.Namespace) -> Callable[[int, object], int]:
    def report(code: int, found: Rebuilt | Exception) -> int:
        if not isinstance(found, Rebuilt):
            return _plain_report(code, found)
        for name, digest in found.digests.items():
            say(" ".join((name, digest, *(_would_change(name, found) if arguments.dry_run else ()))))
        return _plain_report(code, found.head)

    return report


def _json_rebuilt(arguments: argparse.Namespace) -> Callable[[int, object], int]:
    """A report that prints the one document: `result` is rebuilt, would_rebuild, damaged or not_done."""

    def report(code: int, found: Rebuilt | Exception) -> int:
        done = found if isinstance(found, Rebuilt) else None
        result = "would_rebuild" if arguments.dry_run else "rebuilt"
        document = {
            "result": result if done else _RESULTS.get(type(found), "not_done"),
            "data_dir": readable(str(arguments.data_dir)),
            "only": arguments.only,
            "digests": done and done.digests,
            "changes": done and done.changes,
            "size": done and done.head.size,
            "root": done and done.head.root.hex(),
            "offset": found.offset if isinstance(found, Damaged) else None,
            "problem": None if done else readable(_words_of(found)),
        }
        say_raw(msgspec.json.format(msgspec.json.encode(document)).decode())
        return code

    return report


def _would_change(name: str, found: Rebuilt) -> tuple[str, ...]:
    if found.changes is None:
        return ("would be made anew",)
    return ("would change" if found.changes.get(name) else "stays",)


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
    what = checks.add_mutually_exclusive_group(required=default_data_dir is None)
    add_data_dir(what, default_data_dir, is_required=False)
    what.add_argument("--snapshot", type=Path, nargs="+", metavar="FILE", help="or a snapshot, with those it continues")
    checks.add_argument(
        "--expect-head", type=parse_head, metavar="SIZE:ROOT", help="fail unless the log continues this head"
    )
    _add_extent(checks)
    checks.add_argument(
        "--workers", type=_count, metavar="N", default=_cpus(), help="processes to use (default: one a CPU)"
    )
    checks.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    checks.set_defaults(handler=run_verify)
    rebuilds = commands.add_parser("rebuild", help="fold the log into new views; the node must be stopped")
    add_data_dir(rebuilds, default_data_dir)
    rebuilds.add_argument("--dry-run", action="store_true", help="say what would change; beside a running node too")
    rebuilds.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    rebuilds.add_argument(
        "--only", choices=[kind.name for kind in PROJECTIONS], metavar="NAME", help="this projection, and what it reads"
    )
    rebuilds.set_defaults(handler=run_rebuild)
    add_audit_command(commands, default_data_dir)
    add_diff_command(commands, default_data_dir)


def _add_extent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="chain and tree alone, and the last entry's signature")
    parser.add_argument("--from", dest="first", type=_offset, metavar="N", default=0, help="begin at this offset")
    parser.add_argument("--to", dest="end", type=_offset, metavar="N", help="end before this offset")


def _offset(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise argparse.ArgumentTypeError("an offset is a number from 0 on")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"a number from 1 to {_MAX_WORKERS}")
    return int(text)


def _cpus() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_WORKERS)


def _plain_report(code: int, found: SizeAndRoot | Exception) -> int:
    match found:
        case SizeAndRoot():
            say(f"head {found}")
        case Damaged():
            return _report_damage(found)
        case NotExtended():
            print(found, file=sys.stderr)
            say(str(found))
        case _:
            return _report_trouble(found)
    return code


def _json_report(arguments: argparse.Namespace, extent: Extent, notes: list[str]) -> Callable[[int, object], int]:
    """A report that prints the one document: `result` is sound, damaged, not_extended or not_done."""

    def report(code: int, found: SizeAndRoot | Exception) -> int:
        head = found if isinstance(found, SizeAndRoot) else None
        document = {
            "result": _RESULTS.get(type(found), "not_done"),
            "data_dir": None if arguments.snapshot else readable(str(arguments.data_dir)),
            "snapshot": arguments.snapshot and [readable(str(path)) for path in arguments.snapshot],
            "from": extent.first,
            "to": extent.end,
            "quick": extent.is_quick,
            "size": head and head.size,
            "root": head and head.root.hex(),
            "offset": found.offset if isinstance(found, Damaged) else None,
            "problem": None if head else readable(_words_of(found)),
            "notes": notes,
        }
        say_raw(msgspec.json.format(msgspec.json.encode(document)).decode())
        return code

    return report


def _words_of(error: Exception) -> str:
    detail = error.detail if isinstance(error, Refusal) else str(error)
    return " ".join(detail.split())


def _report_damage(damage: Damaged) -> int:
    offset = "unknown" if damage.offset is None else damage.offset
    print(f"offset {offset}: {plain(damage.words)}", file=sys.stderr)
    say(f"damaged at offset {offset}: {damage.words}")
    return DAMAGED


def _report_trouble(error: Exception) -> int:
    print(f"stigmem: {plain(_words_of(error))}", file=sys.stderr)
    return NOT_DONE
