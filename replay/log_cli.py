"""The commands `stigmem log head|show|tail|proof|verify`.

Always: results on stdout, trouble on stderr in one line. Exit code 0; 2: could not be done; 6: something does not hold.
`verify` opens the files it is given, and nothing else.

Does not know how a running node is asked: the caller hands in the Source for it.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from node.errors import Refusal
from node.events.log import UnknownFormat
from node.events.proof_bundle import MAX_BUNDLE_BYTES, encode_bundle
from node.keys import KeyFileError, Signer, load_signer
from replay.bundle_verdict import Asked, key_in_manifest, key_named, verdict, witness_named
from replay.chain import Damaged, NotALog
from replay.copying import CopyFailed
from replay.folder_log import FolderLog, ShownEntry, folder_log
from replay.log_source import DoesNotHold, NotDone, Source, Wanted, head_text, line_text, plain

OK, NOT_DONE, BROKEN = 0, 2, 6
_TROUBLE = (NotDone, NotALog, CopyFailed, UnknownFormat, KeyFileError, Refusal, OSError)

Run = Callable[[argparse.Namespace], None]


def add_log_commands(
    subparsers: argparse._SubParsersAction, running: Callable[[], Source], passphrase: str | None
) -> None:
    """Add the commands; each sets `handler`. `running` gives the log of the node at STIGMEM_URL, `passphrase` opens --sign-with."""
    log = subparsers.add_parser(
        "log", help="the log's head, entries and proofs: of a running node, or of a data folder"
    )
    commands = log.add_subparsers(dest="log_command", required=True, metavar="COMMAND")
    sources = _Sources(running, passphrase)
    _add_head(commands, sources)
    _add_show(commands, sources)
    _add_tail(commands, sources)
    _add_proof(commands, sources)
    _add_verify(commands)


class _Sources:
    """The log that the arguments name: of --data-dir, or else of the running node."""

    def __init__(self, running: Callable[[], Source], passphrase: str | None) -> None:
        self._running, self._passphrase = running, passphrase

    @contextmanager
    def open(self, arguments: argparse.Namespace) -> Iterator[Source]:
        if arguments.data_dir is None:
            if getattr(arguments, "sign_with", None) is not None:
                raise NotDone("--sign-with is for a folder: a running node signs by itself")
            yield self._running()
        else:
            with self.folder(arguments) as log:
                yield log

    @contextmanager
    def folder(self, arguments: argparse.Namespace) -> Iterator[FolderLog]:
        with folder_log(arguments.data_dir, self._signer(arguments)) as log:
            yield log

    def _signer(self, arguments: argparse.Namespace) -> Signer | None:
        key_file = getattr(arguments, "sign_with", None)
        return None if key_file is None else load_signer(key_file, self._passphrase)


def _add_head(commands: argparse._SubParsersAction, sources: _Sources) -> None:
    def run(arguments: argparse.Namespace) -> None:
        with sources.open(arguments) as log:
            _show(head_text(log.head()))

    parser = _command(commands, "head", "size, root, key and signed checkpoint", run)
    _add_data_dir(parser)
    _add_sign_with(parser)


def _add_show(commands: argparse._SubParsersAction, sources: _Sources) -> None:
    def run(arguments: argparse.Namespace) -> None:
        with sources.folder(arguments) as log:
            shown = log.show(_wanted(arguments.entry))
        _show(msgspec.json.encode(shown).decode() if arguments.json else _entry_text(shown))
        if shown.problems:
            raise DoesNotHold(f"offset {shown.offset}: {'; '.join(shown.problems)}")

    parser = _command(commands, "show", "one entry with its items, and whether it holds; of a data folder", run)
    _add_entry(parser)
    _add_data_dir(parser, is_required=True)
    parser.add_argument("--json", action="store_true", help="as one JSON document")


def _add_tail(commands: argparse._SubParsersAction, sources: _Sources) -> None:
    def run(arguments: argparse.Namespace) -> None:
        with sources.open(arguments) as log:
            for line in log.tail(arguments.lines, follow=arguments.follow):
                _show(line_text(line))

    parser = _command(commands, "tail", "the newest entries, one line each", run)
    _add_data_dir(parser)
    parser.add_argument("-n", "--lines", type=_count, default=10, metavar="N", help="how many (10)")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="and what is appended from now on, at a running node"
    )


def _add_proof(commands: argparse._SubParsersAction, sources: _Sources) -> None:
    def run(arguments: argparse.Namespace) -> None:
        note = None if arguments.checkpoint is None else _text(arguments.checkpoint)
        wanted = _wanted(
            arguments.entry,
            item=arguments.item,
            size=arguments.size,
            goes_on_from=arguments.consistency_from,
            note=note,
        )
        with sources.open(arguments) as log:
            bundle = encode_bundle(log.bundle(wanted))
        if arguments.out is None:
            _show(bundle.decode().rstrip("\n"))
        else:
            arguments.out.write_bytes(bundle)

    parser = _command(
        commands, "proof", "a proof bundle, which `stigmem log verify` checks with the log's key alone", run
    )
    _add_entry(parser)
    _add_data_dir(parser)
    _add_sign_with(parser)
    parser.add_argument("--checkpoint", type=Path, metavar="NOTE", help="file of a signed checkpoint to prove it under")
    parser.add_argument("--item", type=_count, metavar="INDEX", help="put this item of the entry in, content and all")
    parser.add_argument("--size", type=_count, metavar="N", help="prove it in the tree of N entries")
    parser.add_argument(
        "--consistency-from", type=_count, metavar="SIZE", help="and that the log goes on from SIZE entries"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (standard output)")


def _add_verify(commands: argparse._SubParsersAction) -> None:
    def run(arguments: argparse.Namespace) -> None:
        asked = Asked(
            file=_bytes(arguments.file),
            key=key_in_manifest(_bytes(arguments.manifest)) if arguments.manifest else key_named(arguments.public_key),
            older=None if arguments.checkpoint is None else _bytes(arguments.checkpoint),
            consistency=None if arguments.consistency is None else _bytes(arguments.consistency),
            witnesses=tuple(map(witness_named, arguments.witness)),
        )
        for line in verdict(asked):
            _show(plain(line))

    parser = _command(commands, "verify", "check a proof bundle or a checkpoint, offline", run)
    parser.add_argument("file", type=Path, metavar="FILE", help="a proof bundle, or a signed checkpoint")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument(
        "--public-key", metavar="KEY", help="the log's key: NAME+HASH+BASE64 as `log head` prints it, base64url or hex"
    )
    key.add_argument("--manifest", type=Path, metavar="FILE", help="the manifest that names the log's key")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="NOTE", help="a checkpoint that you kept: it must be of the same log"
    )
    parser.add_argument(
        "--consistency", type=Path, metavar="PROOF", help="the node's proof from one checkpoint to the other"
    )
    parser.add_argument(
        "--witness", action="append", default=[], metavar="KEY", help="NAME+HASH+BASE64 of one who must have cosigned"
    )


def _command(commands: argparse._SubParsersAction, name: str, described: str, run: Run) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=described)
    parser.set_defaults(handler=lambda arguments: _run(run, arguments))
    return parser


def _run(run: Run, arguments: argparse.Namespace) -> int:
    try:
        run(arguments)
    except KeyboardInterrupt:
        return OK
    except Damaged as damage:
        where = "" if damage.offset is None else f"offset {damage.offset}: "
        return _say(f"{where}{damage.words}", BROKEN)
    except DoesNotHold as error:
        return _say(str(error), BROKEN)
    except BrokenPipeError:
        raise
    except _TROUBLE as error:
        return _say(error.detail if isinstance(error, Refusal) else str(error), NOT_DONE)
    return OK


def _show(text: str) -> None:
    """Print, with an escape for what this terminal has no character for: in JSON it reads the same."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _say(words: str, code: int) -> int:
    print(f"stigmem: {plain(' '.join(words.split()))}", file=sys.stderr)
    return code


def _add_data_dir(parser: argparse.ArgumentParser, *, is_required: bool = False) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        required=is_required,
        help="read this folder, also beside a running node" + ("" if is_required else "; left out: ask STIGMEM_URL"),
    )


def _add_sign_with(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sign-with", metavar="KEY", help="PEM file of the node's key, to sign the folder's checkpoint"
    )


def _add_entry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("entry", metavar="OFFSET|FACT_ID", help="an offset, or the id of a fact")


def _wanted(entry: str, **options: object) -> Wanted:
    is_offset = entry.isascii() and entry.isdecimal() and len(entry) <= 18
    rest = {"item": None, "size": None, "goes_on_from": None, "note": None} | options
    return Wanted(offset=int(entry) if is_offset else None, fact_id=None if is_offset else entry, **rest)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise argparse.ArgumentTypeError("a whole number from 0 on is needed")
    return int(text)


def _bytes(path: Path) -> bytes:
    """What the file holds, as far as it may be read: one byte more than that is enough to refuse it."""
    with path.open("rb") as file:
        return file.read(MAX_BUNDLE_BYTES + 1)


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError as error:
        raise DoesNotHold(f"{path} is no note: not UTF-8") from error


def _entry_text(shown: ShownEntry) -> str:
    header = msgspec.structs.asdict(shown.header)
    lines = [f"{name:<9} {value}" for name, value in header.items() if name != "items"]
    lines += [f"{'leaf_hash':<9} {shown.leaf_hash}"]
    for item in shown.items:
        lines += [f"item {item.index} {item.commitment}", f"  {msgspec.json.encode(item.content).decode()}"]
    lines += ["holds: signature, place and commitments"] if not shown.problems else list(shown.problems)
    return "\n".join(map(plain, lines))
