"""The commands `stigmem storage encrypt|decrypt|rekey`: what a data folder lies under, changed while its node is stopped.

Always: results on stdout, trouble on stderr in one line. Exit code 0: done; 2: could not be done; 6: the log is damaged, and stays
as it is.

Does not read the environment: what is set there, the caller passes on (`Sources`).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from node.at_rest import AtRestError, Secret, lies_within, read_key_file
from node.config import ConfigError
from node.errors import Refusal
from node.events.log import UnknownFormat
from node.folder_lock import FolderInUse
from node.keys import KeyFileError
from replay.audit_cli import add_data_dir
from replay.chain import Damaged, NotALog
from replay.ending import NOT_DONE, OK, say
from replay.shown import plain
from replay.storage import Change, change
from replay.verify import NotExtended
from replay.workers import NotDone

DAMAGED = 6
_TROUBLE = (
    AtRestError,
    ConfigError,
    FolderInUse,
    KeyFileError,
    NotALog,
    NotDone,
    NotExtended,
    OSError,
    Refusal,
    UnknownFormat,
)


class Sources(Struct, frozen=True, kw_only=True):
    """Where keys come from: the settings, for a data folder; the variable of a name, for a passphrase."""

    data_dir: str | None
    secret_of: Callable[[Path], Secret | None]
    node_secret_of: Callable[[Path], Secret]
    variable: Callable[[str], str | None]


def add_storage_commands(subparsers: argparse._SubParsersAction, sources: Sources) -> None:
    """Add `storage encrypt`, `decrypt` and `rekey`; each sets `handler`, a function from arguments to exit code."""
    storage = subparsers.add_parser("storage", help="encrypt or decrypt what is stored; the node must be stopped")
    commands = storage.add_subparsers(dest="storage_command", required=True, metavar="COMMAND")
    for name, described, wanted_of in (
        ("encrypt", "encrypt a folder that lies in clear, under the key of the settings", _encrypt),
        ("decrypt", "lay an encrypted folder in clear", _decrypt),
        ("rekey", "encrypt an encrypted folder anew, under fresh keys and, if asked, another secret", _rekey),
    ):
        command = commands.add_parser(name, help=described)
        add_data_dir(command, sources.data_dir)
        command.set_defaults(handler=_run, sources=sources, wanted_of=wanted_of)
        if name == "rekey":
            _add_new_source(command)


def _add_new_source(command: argparse.ArgumentParser) -> None:
    new = command.add_mutually_exclusive_group()
    new.add_argument("--new-key-file", type=Path, metavar="FILE", help="from now on under this key file")
    new.add_argument("--new-passphrase-env", metavar="NAME", help="or under the passphrase in this variable")
    new.add_argument("--new-node-key", action="store_true", help="or under what is derived from the node key")


def _run(arguments: argparse.Namespace) -> int:
    try:
        size = change(arguments.data_dir, arguments.wanted_of(arguments), _progress)
    except Damaged as damage:
        offset = "unknown" if damage.offset is None else damage.offset
        print(f"offset {offset}: {plain(damage.words)}", file=sys.stderr)
        say(f"damaged at offset {offset}: {damage.words}")
        return DAMAGED
    except _TROUBLE as error:
        detail = error.detail if isinstance(error, Refusal) else str(error)
        print(f"stigmem: {plain(' '.join(detail.split()))}", file=sys.stderr)
        return NOT_DONE
    say(
        f"{arguments.storage_command}ed {arguments.data_dir}: {size} entries; the views are made anew at the next start"
    )
    return OK


def _encrypt(arguments: argparse.Namespace) -> Change:
    return Change(None, _set_secret(arguments))


def _decrypt(arguments: argparse.Namespace) -> Change:
    return Change(_set_secret(arguments), None)


def _rekey(arguments: argparse.Namespace) -> Change:
    old, sources = _set_secret(arguments), arguments.sources
    if arguments.new_key_file is not None:
        if lies_within(arguments.new_key_file, arguments.data_dir):
            raise AtRestError("--new-key-file: it lies in the data folder, beside what it would lock")
        return Change(old, read_key_file(arguments.new_key_file))
    if arguments.new_passphrase_env is not None:
        passphrase = sources.variable(arguments.new_passphrase_env)
        if not passphrase:
            raise AtRestError(f"--new-passphrase-env: the variable {arguments.new_passphrase_env} is not set, or empty")
        return Change(old, Secret("passphrase", passphrase.encode("utf-8", "surrogateescape")))
    return Change(old, sources.node_secret_of(arguments.data_dir) if arguments.new_node_key else old)


def _set_secret(arguments: argparse.Namespace) -> Secret:
    secret = arguments.sources.secret_of(arguments.data_dir)
    if secret is None:
        raise AtRestError("no key is set: STIGMEM_AT_REST_ENCRYPTION=on, with its source (docs/encryption.md)")
    return secret


def _progress(reached: int, size: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{reached} of {size} entries", end="\n" if reached == size else "", file=sys.stderr, flush=True)
