"""The command `stigmem replay audit`: its arguments, and how whatever tells from a checked log ends.

Always: stdout is UTF-8 whatever the locale; trouble is one line on stderr. Exit code 0: told; 1: no such fact or place;
2: could not be done, or asked wrongly; 6: damage, with the first bad offset. A reader who closes the pipe early hears nothing.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from node.errors import Refusal
from node.events.log import UnknownFormat
from node.times import parse_rfc3339
from replay.audit import Filters, NdjsonWriter, Writer, audit, in_normal_form, types_named
from replay.chain import Damaged, NotALog
from replay.checked_log import Evidence, NoSuchPlace, checked_evidence
from replay.copying import CopyFailed
from replay.prov import ProvWriter
from replay.report import ReportWriter
from replay.shown import Output, plain
from replay.trace import UnknownFact, lives_of, trace
from replay.trace_records import NdjsonTrace, ProvTrace
from replay.trace_report import TraceReport
from replay.workers import NotDone

OK, NOT_FOUND, NOT_DONE, DAMAGED = 0, 1, 2, 6
_TRACES = {"text": TraceReport, "ndjson": NdjsonTrace, "prov": ProvTrace}
_NAMES = ("actor", "source", "entity", "peer", "garden")
_FILTERS = (*_NAMES, "type", "since", "until", "first", "end")
_UNASKED = (None, [], 0)


def add_audit_command(commands: argparse._SubParsersAction, default_data_dir: str | None) -> None:
    parser = commands.add_parser("audit", help="who did what, to what, and when; or one fact's whole life")
    add_data_dir(parser, default_data_dir)
    for name, described in (
        ("actor", "caused by this principal; the node's own id stands for the node itself and for its admin key"),
        ("source", "about facts of this source"),
        ("entity", "about facts of this entity"),
        ("peer", "having to do with this peer, by node_id or peer_id"),
        ("garden", "having to do with this garden, by id, slug or URI"),
    ):
        parser.add_argument(f"--{name}", type=_name, metavar="NAME", help=described)
    parser.add_argument(
        "--type", type=_types, action="append", default=[], metavar="TYPE", help="of this event type; may be repeated"
    )
    parser.add_argument("--since", type=_time, metavar="TIME", help="dated at or after this RFC 3339 time")
    parser.add_argument("--until", type=_time, metavar="TIME", help="dated before this RFC 3339 time")
    parser.add_argument("--from", dest="first", type=_offset, default=0, metavar="OFFSET", help="from this offset on")
    parser.add_argument("--to", dest="end", type=_offset, metavar="OFFSET", help="before this offset")
    parser.add_argument("--trace", metavar="FACT", help="one fact's life instead: its id, CID or fact hash")
    parser.add_argument("--format", choices=tuple(_TRACES), default="text", help="text for people (the default)")
    parser.set_defaults(handler=run_audit)


def run_audit(arguments: argparse.Namespace) -> int:
    if arguments.trace is not None and any(getattr(arguments, name) not in _UNASKED for name in _FILTERS):
        return _fail(NOT_DONE, "--trace tells all of one fact's life: it takes no filter beside it")
    tell = _audit if arguments.trace is None else _trace
    return run_on_evidence(
        arguments, lambda evidence, output: tell(evidence, arguments, output), is_text=arguments.format == "text"
    )


def run_on_evidence(arguments: argparse.Namespace, tell: Callable[[Evidence, Output], None], *, is_text: bool) -> int:
    """Have `tell` write what it finds in the log of `--data-dir`; the exit code, trouble told on stderr.

    Damage is the last line of stdout too where that `is_text`, as with `replay verify`.
    """
    return _run(arguments.data_dir, tell, is_text=is_text)


def add_data_dir(parser: argparse._ActionsContainer, default: str | None, *, is_required: bool = True) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=default and Path(default),
        required=is_required and default is None,
        help="the node's data folder",
    )


def _run(data_dir: Path, tell: Callable[[Evidence, Output], None], *, is_text: bool) -> int:
    output = Output(sys.stdout.buffer)
    try:
        with checked_evidence(data_dir) as evidence:
            tell(evidence, output)
    except Damaged as damage:
        words = f"offset {'unknown' if damage.offset is None else damage.offset}: {damage.words}"
        if is_text:
            output.line(f"damaged at {words}")
        print(plain(words), file=sys.stderr)
        return DAMAGED
    except (UnknownFact, NoSuchPlace) as error:
        return _fail(NOT_FOUND, str(error))
    except BrokenPipeError:
        raise
    except (NotALog, NotDone, UnknownFormat, CopyFailed, Refusal, OSError) as error:
        return _fail(NOT_DONE, error.detail if isinstance(error, Refusal) else str(error))
    return OK


def _audit(evidence: Evidence, arguments: argparse.Namespace, output: Output) -> None:
    writers: dict[str, Callable[[], Writer]] = {
        "text": lambda: ReportWriter(output, evidence),
        "ndjson": lambda: NdjsonWriter(output),
        "prov": lambda: ProvWriter(output, evidence),
    }
    audit(evidence, _filters(arguments, evidence), writers[arguments.format]())


def _filters(arguments: argparse.Namespace, evidence: Evidence) -> Filters:
    log, size = evidence.log, evidence.size
    since = 0 if arguments.since is None else log.first_at(arguments.since, size)
    until = size if arguments.until is None else log.first_at(arguments.until, size)
    return Filters(
        first=max(arguments.first, since),
        end=min(size if arguments.end is None else arguments.end, until, size),
        types=frozenset().union(*arguments.type),
        **{name: getattr(arguments, name) for name in _NAMES},
    )


def _trace(evidence: Evidence, arguments: argparse.Namespace, output: Output) -> None:
    lives = lives_of(arguments.trace, evidence)
    writer = _TRACES[arguments.format](lives, evidence)
    writer.write(trace(arguments.trace, lives, evidence, writer.tell), output)


def _fail(code: int, words: str) -> int:
    print(f"stigmem: {plain(' '.join(words.split()))}", file=sys.stderr)
    return code


def _name(text: str) -> str:
    return in_normal_form(text)


def _types(text: str) -> frozenset[str]:
    try:
        return types_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _time(text: str) -> int:
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def _offset(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text}: an offset is a whole number")
    return int(text)
