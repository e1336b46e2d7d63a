"""The commands `stigmem snapshot create|list|verify|restore`.

Always: results on stdout, trouble on stderr in one line. Exit code 0: done, or sound; 2: could not be done; 6: damage, which the
last line of stdout names too.

Does not read the environment: what is set there, the caller passes on (`Defaults`).
"""

import argparse
import re
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from node.canonical import b64url_decode
from node.errors import Refusal
from node.events.log import UnknownFormat
from node.folder_lock import FolderInUse
from node.keys import KeyFileError, Signer, key_id_of, load_signer
from replay.audit_cli import add_data_dir
from replay.chain import Damaged, NotALog
from replay.cli import DAMAGED, NOT_DONE, OK
from replay.copying import CopyFailed
from replay.ending import say, say_raw
from replay.shown import plain, readable
from replay.snapshots.container import SnapshotFile
from replay.snapshots.create import Wanted, create_snapshot
from replay.snapshots.manifest import Manifest, NotASnapshot, NotTrusted
from replay.snapshots.restore import opened, restore, verify_snapshots
from replay.workers import NotDone

_KEY = re.compile(r"[A-Za-z0-9_-]{43}|[0-9a-f]{64}")
TROUBLE = (
    NotASnapshot,
    NotTrusted,
    NotALog,
    NotDone,
    UnknownFormat,
    CopyFailed,
    FolderInUse,
    KeyFileError,
    Refusal,
    OSError,
)


class Defaults(Struct, frozen=True, kw_only=True):
    """What the environment says: the data folder, and the node's key file with its passphrase."""

    data_dir: str | None
    key_file: str | None
    passphrase: str | None


def add_snapshot_commands(subparsers: argparse._SubParsersAction, defaults: Defaults) -> None:
    """Add `snapshot create`, `list`, `verify` and `restore`; each sets `handler`, a function from arguments to exit code."""
    snapshot = subparsers.add_parser("snapshot", help="the log in one signed file: make, check, restore")
    commands = snapshot.add_subparsers(dest="snapshot_command", required=True, metavar="COMMAND")
    _add_create(commands, defaults)
    lists = commands.add_parser("list", help="the snapshots in a folder; checks their signatures alone")
    lists.add_argument("folder", type=Path, metavar="DIR")
    lists.add_argument("--json", action="store_true", help="one line of JSON for each")
    lists.set_defaults(handler=_run_list)
    verifies = commands.add_parser("verify", help="check a snapshot, or a full one and those that continue it")
    _add_files(verifies)
    verifies.add_argument("--json", action="store_true", help="the result as one line of JSON")
    verifies.set_defaults(handler=_run_verify)
    restores = commands.add_parser("restore", help="verify, then write the log into an empty folder")
    add_data_dir(restores, defaults.data_dir)
    _add_files(restores)
    restores.set_defaults(handler=_run_restore)


def _add_create(commands: argparse._SubParsersAction, defaults: Defaults) -> None:
    creates = commands.add_parser("create", help="make one, also beside the running node")
    add_data_dir(creates, defaults.data_dir)
    where = creates.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FILE", help="the file to make")
    where.add_argument("--dir", type=Path, metavar="DIR", default=Path(), help="or a folder to make one in (.)")
    creates.add_argument(
        "--since", metavar="OFFSET|FILE", help="only what came behind an offset, or behind another snapshot"
    )
    creates.add_argument("--sign-with", metavar="KEY", help="PEM file of another key than the node's own")
    creates.set_defaults(handler=_run_create, defaults=defaults)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument(
        "--trust-key",
        action="append",
        default=[],
        type=_key,
        metavar="KEY",
        help="take no signer's word but this one's: a public key in base64url, or its key_id",
    )


def _key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise argparse.ArgumentTypeError("a key is 43 characters of base64url, or a key_id of 64 hex digits")
    return text


def _run_create(arguments: argparse.Namespace) -> int:
    try:
        wanted = Wanted(
            data_dir=arguments.data_dir,
            target=arguments.out or arguments.dir,
            is_folder=arguments.out is None,
            since=_since(arguments.since),
            signer=_signer(arguments),
        )
        path, manifest = create_snapshot(wanted, _progress)
    except Damaged as damage:
        return _report_damage(damage)
    except TROUBLE as error:
        return _report_trouble(error)
    say(str(path))
    say(f"head {manifest.size}:{manifest.root}")
    return OK


def _run_list(arguments: argparse.Namespace) -> int:
    if not arguments.folder.is_dir():
        return _report_trouble(NotASnapshot(f"{arguments.folder} is not there, or is not a folder"))
    try:
        paths = sorted(arguments.folder.iterdir())
    except OSError as error:
        return _report_trouble(error)
    rows, code = [], OK
    for path in paths:
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            with SnapshotFile(path) as snapshot:
                rows.append(_row(readable(path.name), snapshot.manifest))
        except NotASnapshot as error:
            # Other files may lie beside them; what one is that cannot be read, nobody knows.
            if isinstance(error.__cause__, OSError):
                rows.append(
                    {"file": readable(path.name), "state": "unreadable", "detail": str(error.__cause__.strerror)}
                )
                code = max(code, NOT_DONE)
        except Damaged as damage:
            rows.append({"file": readable(path.name), "state": "damaged", "detail": readable(damage.words)})
            code = DAMAGED
    if arguments.json:
        for row in rows:
            say_raw(msgspec.json.encode(row).decode())
    else:
        for line in _table(rows):
            say(line)
    return code


def _run_verify(arguments: argparse.Namespace) -> int:
    notes: list[str] = []
    try:
        with opened(arguments.files) as snapshots:
            head = verify_snapshots(snapshots, arguments.trust_key, notes.append if arguments.json else say)
            last = snapshots[-1].manifest
    except Damaged as damage:
        return _report_json_damage(damage) if arguments.json else _report_damage(damage)
    except TROUBLE as error:
        return _report_trouble(error)
    if arguments.json:
        said = {
            "state": "sound",
            "size": head.size,
            "root": head.root.hex(),
            "signed_by": last.signed_by,
            "notes": notes,
        }
        say_raw(msgspec.json.encode(said).decode())
    else:
        say(f"head {head}")
    return OK


def _run_restore(arguments: argparse.Namespace) -> int:
    try:
        head = restore(arguments.data_dir, arguments.files, arguments.trust_key, say)
    except Damaged as damage:
        return _report_damage(damage)
    except TROUBLE as error:
        return _report_trouble(error)
    say(f"restored {arguments.data_dir}")
    if not (arguments.data_dir / "node.key").exists():
        say("the node's key is not in a snapshot: put it into node.key there, or name its file")
    say(f"head {head}")
    return OK


def _since(text: str | None) -> int | Manifest:
    if text is None:
        return 0
    if re.fullmatch(r"[0-9]{1,17}", text):
        return int(text)
    with SnapshotFile(Path(text)) as snapshot:
        return snapshot.manifest


def _signer(arguments: argparse.Namespace) -> Signer:
    defaults: Defaults = arguments.defaults
    path = arguments.sign_with or defaults.key_file or arguments.data_dir / "node.key"
    return load_signer(path, defaults.passphrase)


def _row(name: str, manifest: Manifest) -> dict[str, object]:
    return {
        "file": name,
        "state": "signed",
        "node_id": manifest.node_id,
        "first": manifest.first,
        "size": manifest.size,
        "root": manifest.root,
        "created_at": manifest.created_at,
        "signed_by": manifest.signed_by,
        "key_id": key_id_of(b64url_decode(manifest.signed_by)),
        "is_log_key": manifest.signed_by in (manifest.log_key, *manifest.keys),
        "continues": None if manifest.continues is None else msgspec.to_builtins(manifest.continues),
    }


def _table(rows: list[dict[str, object]]) -> list[str]:
    if not rows:
        return ["no snapshots"]
    cells = [("FILE", "ENTRIES", "ROOT", "MADE", "SIGNED BY", "STATE")]
    for row in rows:
        if row["state"] != "signed":
            cells.append((str(row["file"]), "-", "-", "-", "-", f"{row['state']}: {row['detail']}"))
            continue
        by = "the log's own key" if row["is_log_key"] else str(row["key_id"])[:12]
        span = f"{row['first']}-{row['size']}"
        cells.append((str(row["file"]), span, str(row["root"])[:12], str(row["created_at"]), by, "signed"))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[5]]) for line in cells
    ]


def _progress(read: int, size: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{read} of {size} entries", end="\n" if read == size else "", file=sys.stderr, flush=True)


def _report_damage(damage: Damaged) -> int:
    offset = "unknown" if damage.offset is None else damage.offset
    print(f"offset {offset}: {plain(damage.words)}", file=sys.stderr)
    say(f"damaged at offset {offset}: {damage.words}")
    return DAMAGED


def _report_json_damage(damage: Damaged) -> int:
    said = {"state": "damaged", "offset": damage.offset, "detail": readable(damage.words)}
    say_raw(msgspec.json.encode(said).decode())
    return DAMAGED


def _report_trouble(error: Exception) -> int:
    detail = error.detail if isinstance(error, Refusal) else str(error)
    print(f"stigmem: {plain(' '.join(detail.split()))}", file=sys.stderr)
    return NOT_DONE
