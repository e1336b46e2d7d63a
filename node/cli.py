"""The command `stigmem`: subcommands to functions; the only reader of os.environ and sys.argv.

Always: what stops a command is one line on stderr and an exit code, never a traceback.
"""

import argparse
import asyncio
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog
import uvloop

from node import VERSION, client
from node.at_rest import AtRestError, Secret, lies_within, node_secret, secret_of
from node.clock import Clock
from node.config import SECRETS, SETTINGS, Config, ConfigError, from_environ
from node.errors import Refusal
from node.events.log import UnknownFormat
from node.folder_lock import FolderInUse
from node.garden_console import add_garden_commands
from node.key_console import add_key_commands
from node.keys import KeyFileError, Signer, load_signer
from node.logging import configure_logging
from node.peer_console import Console
from node.private_files import is_open_to_others, leave_no_core
from node.runtime import StartupError
from node.serve import open_signer, serve
from node.tls import TlsFileError
from node.tombstone_console import add_tombstone_commands
from node.trust_console import add_trust_commands
from replay.ending import ended

FAILED, MISUSED = 1, 2
DEFAULT_URL = "http://localhost:8765"
READY_TIMEOUT_S = 4.0

_log = structlog.get_logger("stigmem.cli")
_PEER_VERBS = {
    "add": "register a peer",
    "declare": "our signed declaration, which another node registers us by; with --to brought there",
    "list": "all peers, with how far either side lags",
    "show": "everything about one peer",
    "check": "fetch its discovery document, manifest and proof now, and say what they are worth",
    "pull": "read what it has for us now",
    "pin": "let these certificates alone count for a peer; none: those that a trusted CA signed for its name",
    "approve": "approve what waits for an admin",
    "remove": "end the exchange",
}
_SCOPE_FLAGS, _SCOPE_HELP = ("--scope", "--scopes"), "what is exchanged: with commas between, or once for each (public)"
_PIN_HELP = "fingerprint of a certificate, as `openssl x509 -fingerprint -sha256` prints it"
# Commands that read what may be encrypted.
_UNLOCKED = frozenset({"replay", "log", "snapshot"})
_CANNOT_START = (
    AtRestError,
    ConfigError,
    KeyFileError,
    TlsFileError,
    StartupError,
    FolderInUse,
    UnknownFormat,
    Refusal,
    OSError,
)


def main() -> int:
    # Everything a node writes is its operator's alone.
    os.umask(0o077)
    leave_no_core()
    arguments = _parser(os.environ, sys.argv[1:]).parse_args()
    client.CA_FILE.set(os.environ.get("STIGMEM_CA_FILE") or None)
    if arguments.command == "serve":
        return arguments.handler(arguments)
    return ended(lambda: _run_unlocked(arguments))


def _run_unlocked(arguments: argparse.Namespace) -> int:
    """Run a command; one about a data folder or a snapshot with the keys that the settings name, where it is encrypted."""
    data_dir = getattr(arguments, "data_dir", None)
    try:
        with ExitStack() as stack:
            if arguments.command in _UNLOCKED:
                from replay.opening import unlocked, unlocked_folder

                folder = Path(data_dir) if data_dir is not None else None
                secret = partial(_secret_for, folder)
                stack.enter_context(unlocked(secret) if folder is None else unlocked_folder(folder, secret))
            return arguments.handler(arguments)
    except (AtRestError, ConfigError, KeyFileError) as error:
        return _fail(error)


def _secret_for(folder: Path | None) -> Secret | None:
    """What the settings name as the key of a folder, or of a snapshot; None where encryption is off."""
    config = _config({} if folder is None else {"data_dir": str(folder)})[0]
    return secret_of(config, lambda: _signer_of(config))


def _node_secret_for(folder: Path) -> Secret:
    config = _config({"data_dir": str(folder)})[0]
    if config.node_private_key_file is None or lies_within(config.node_private_key_file, folder):
        raise AtRestError("--new-node-key: set STIGMEM_NODE_PRIVATE_KEY_FILE to a file outside the data folder")
    return node_secret(_signer_of(config))


def _signer_of(config: Config) -> Signer:
    return load_signer(config.node_private_key_file or "", config.node_private_key_passphrase)


def _parser(environ: Mapping[str, str], asked: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stigmem", description="A federated, signed, append-only memory.")
    parser.add_argument("--version", action="version", version=f"stigmem-node {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    # A tenth of the time that a node takes to start would go into importing what it does not run.
    if "serve" not in asked[:1]:
        _add_facts(commands)
        _add_tokens(commands)
        _add_peers(commands)
        add_key_commands(commands, _at_node)
        add_garden_commands(commands, _at_node)
        add_tombstone_commands(commands, _at_node)
        add_trust_commands(commands, _at_node)
        _add_restore(commands)
        _add_ready(commands)
        _add_offline(commands, environ)
    return parser


def _add_offline(commands: argparse._SubParsersAction, environ: Mapping[str, str]) -> None:
    """What reads data folders and files, with no node or beside one."""
    from node.log_console import NodeLog
    from replay.cli import add_replay_commands
    from replay.log_cli import add_log_commands
    from replay.snapshots.cli import Defaults, add_snapshot_commands
    from replay.storage_cli import Sources, add_storage_commands

    data_dir = environ.get("STIGMEM_DATA_DIR")
    passphrase = environ.get("STIGMEM_NODE_PRIVATE_KEY_PASSPHRASE")
    url, bearer = environ.get("STIGMEM_URL", DEFAULT_URL), environ.get("STIGMEM_API_KEY") or None
    key_file = environ.get("STIGMEM_NODE_PRIVATE_KEY_FILE")
    add_replay_commands(commands, data_dir)
    add_log_commands(commands, lambda: NodeLog(url=url, bearer=bearer), passphrase)
    add_storage_commands(
        commands,
        Sources(
            data_dir=data_dir,
            secret_of=_secret_for,
            node_secret_of=_node_secret_for,
            variable=environ.get,
        ),
    )
    add_snapshot_commands(commands, Defaults(data_dir=data_dir, key_file=key_file, passphrase=passphrase))


def _add_serve(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("serve", help="run a node")
    for setting in SETTINGS:
        if setting.name in SECRETS:
            parser.add_argument(setting.flag, dest=setting.name, action=_NoSecret, help=argparse.SUPPRESS)
            continue
        parser.add_argument(
            setting.flag, dest=setting.name, metavar="VALUE", help=f"{setting.help} ({setting.variable})"
        )
    parser.set_defaults(handler=_serve)


class _NoSecret(argparse.Action):
    """A secret on a command line stands in the list of processes, for everybody on the machine."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        variable = f"STIGMEM_{self.dest.upper()}"
        parser.error(f"a secret does not go on a command line: set {variable}, or {self.dest} in stigmem.toml")


def _add_facts(commands: argparse._SubParsersAction) -> None:
    facts = commands.add_parser("facts", help="assert facts at a running node (STIGMEM_URL, STIGMEM_API_KEY)")
    verbs = facts.add_subparsers(dest="facts_command", required=True, metavar="COMMAND")
    batch = verbs.add_parser("batch", help="assert up to 1,000 facts at once: a JSON array, or one object a line")
    batch.add_argument("file", help="the file that holds them, or - for the input")
    batch.add_argument("--atomic", action="store_true", help="store all of them or none")
    batch.add_argument("--key", help="idempotency key: however often it is sent, the batch is stored once")
    batch.set_defaults(handler=_assert_batch)
    parser = verbs.add_parser("assert", help="assert a fact, attested with --sign-with")
    for name in ("entity", "relation", "value", "source"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--type", default="string", choices=("string", "text", "number", "boolean", "datetime", "ref"))
    parser.add_argument("--confidence", type=float, default=1.0)
    parser.add_argument("--scope", default="local", choices=("local", "team", "company", "public"))
    parser.add_argument("--sign-with", metavar="KEY", help="PEM file of the source organisation's Ed25519 key")
    parser.set_defaults(handler=_assert_fact)


def _add_tokens(commands: argparse._SubParsersAction) -> None:
    tokens = commands.add_parser("tokens", help="capability tokens at a running node (STIGMEM_URL, STIGMEM_API_KEY)")
    parser = tokens.add_subparsers(dest="tokens_command", required=True, metavar="COMMAND").add_parser(
        "accept", help="countersign what our agents write elsewhere under this token"
    )
    parser.add_argument("token_id")
    parser.set_defaults(handler=_accept_token)


def _add_peers(commands: argparse._SubParsersAction) -> None:
    peers = commands.add_parser("peers", help="peers of a running node (STIGMEM_URL, STIGMEM_API_KEY)")
    verbs = peers.add_subparsers(dest="peers_command", required=True, metavar="COMMAND")
    for name, described in _PEER_VERBS.items():
        verb = verbs.add_parser(name, help=described)
        if name == "add":
            verb.add_argument("url", help="where the peer is")
            verb.add_argument("entity_uri", help="who it is, such as stigmem://org-b.example")
        elif name == "declare":
            verb.add_argument(
                "--to", metavar="URL", help="register us at this peer (STIGMEM_PEER_API_KEY: its key for us)"
            )
        elif name != "list":
            verb.add_argument("peer", help="its peer_id or node_id")
        if name in ("add", "declare"):
            verb.add_argument(*_SCOPE_FLAGS, dest="scopes", action="append", default=[], help=_SCOPE_HELP)
        if name == "add":
            verb.add_argument("--tls-pin", dest="pins", action="append", help=_PIN_HELP)
        if name == "pin":
            verb.add_argument("pins", nargs="*", metavar="SHA256", help=_PIN_HELP)
        if name == "pull":
            verb.add_argument("--from-start", action="store_true", help="read its log from the beginning again")
        if name == "approve":
            verb.add_argument("--accept-checkpoint", action="store_true", help="take the new line of a log that forked")
        if name in ("list", "show"):
            verb.add_argument("--as-of", metavar="WHEN", help="as the log had it: an RFC 3339 time, or offset:N")
        verb.add_argument("--json", action="store_true", help="the node's answer as it came")
        verb.set_defaults(handler=_at_peers)


def _add_restore(commands: argparse._SubParsersAction) -> None:
    restore = commands.add_parser("restore", help="after a restore, at a running node (STIGMEM_URL, STIGMEM_API_KEY)")
    parser = restore.add_subparsers(dest="restore_command", required=True, metavar="COMMAND").add_parser(
        "confirm", help="let credentials that were issued before the restore count again"
    )
    parser.set_defaults(handler=_confirm_restore)


def _add_ready(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "ready", help="whether the node at STIGMEM_URL takes writes: exit code 0, or 1 and why not"
    )
    parser.set_defaults(handler=_ready)


def _ready(arguments: argparse.Namespace) -> int:
    """For health checks, so it needs no key and waits no longer than one may."""
    try:
        answer = client.ask(
            os.environ.get("STIGMEM_URL", DEFAULT_URL), None, "GET", "/readyz", timeout_s=READY_TIMEOUT_S
        )
    except client.NodeRefused as refused:
        return _fail(refused)
    print(answer.decode())
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    flags = {s.name: getattr(arguments, s.name) for s in SETTINGS if getattr(arguments, s.name) is not None}
    try:
        config, warnings = _config(flags)
        for warning in warnings:
            print(f"stigmem: warning: {warning}", file=sys.stderr)
        configure_logging(config.log_level)
        _begin_from_snapshot(config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(config))
    except _CANNOT_START as error:
        return _fail(error)
    return 0


def _begin_from_snapshot(config: Config) -> None:
    """Restore what `from_snapshot` names into an empty folder; where there is a log already, leave both alone."""
    if config.from_snapshot is None:
        return
    folder = Path(config.data_dir)
    if (folder / "log").exists():
        _log.info("from_snapshot_unread", reason="the data folder has a log", snapshot=config.from_snapshot)
        return
    if config.node_private_key_file is None and not (folder / "node.key").exists():
        raise StartupError(
            "STIGMEM_FROM_SNAPSHOT: the node's key is not in a snapshot: name its file, or put it into node.key"
        )
    from replay.chain import Damaged
    from replay.snapshots.cli import TROUBLE
    from replay.snapshots.restore import restore

    # Another key's log could not be served with ours: say so before there is one.
    key = open_signer(config, Clock.system()).public_key_b64
    try:
        head = restore(folder, [Path(config.from_snapshot)], {key}, lambda line: _log.info("from_snapshot", found=line))
    except (*TROUBLE, Damaged) as error:
        raise StartupError(f"STIGMEM_FROM_SNAPSHOT: {error.detail if isinstance(error, Refusal) else error}") from error
    _log.info("restored", snapshot=config.from_snapshot, size=head.size, root=head.root.hex())


def _config(flags: dict[str, str]) -> tuple[Config, list[str]]:
    path = Path("stigmem.toml")
    try:
        toml = tomllib.loads(path.read_text()) if path.exists() else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    config, warnings = from_environ(os.environ, toml, flags)
    named = {key.lower().replace("-", "_").removeprefix("stigmem_") for key in toml or {}}
    if named & SECRETS and is_open_to_others(path):
        warnings.append(f"{path}: it holds a secret, and anybody on this machine may read it: chmod 600")
    return config, warnings


def _assert_fact(arguments: argparse.Namespace) -> int:
    def run(url: str, bearer: str) -> bytes:
        statement = client.Statement(
            entity=arguments.entity,
            relation=arguments.relation,
            value=client.value_of(arguments.type, arguments.value),
            source=arguments.source,
            confidence=arguments.confidence,
            scope=arguments.scope,
        )
        passphrase = os.environ.get("STIGMEM_NODE_PRIVATE_KEY_PASSPHRASE")
        return client.assert_fact(url, bearer, statement, key_file=arguments.sign_with, passphrase=passphrase)

    return _at_node(run)


def _assert_batch(arguments: argparse.Namespace) -> int:
    refused = 0

    def run(url: str, bearer: str) -> bytes:
        nonlocal refused
        facts = _content_of(arguments.file)
        answer = client.assert_batch(url, bearer, facts, is_atomic=arguments.atomic, idempotency_key=arguments.key)
        refused = client.refused_of(answer)
        return answer

    return _at_node(run, is_raw=arguments.atomic) or (FAILED if refused else 0)


def _content_of(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def _accept_token(arguments: argparse.Namespace) -> int:
    return _at_node(lambda url, bearer: client.accept_token(url, bearer, arguments.token_id))


def _confirm_restore(arguments: argparse.Namespace) -> int:
    return _at_node(client.confirm_restore)


def _at_peers(arguments: argparse.Namespace) -> int:
    def run(url: str, bearer: str) -> bytes:
        console = Console(url=url, bearer=bearer, is_raw=arguments.json)
        match arguments.peers_command:
            case "add":
                said = console.add(arguments.url, arguments.entity_uri, _scopes(arguments), arguments.pins)
            case "pin":
                said = console.pin(arguments.peer, arguments.pins)
            case "declare" if arguments.to is None:
                said = console.declare(_scopes(arguments))
            case "declare":
                said = console.declare_to(arguments.to, _peer_bearer(), _scopes(arguments))
            case "list":
                said = console.list(as_of=arguments.as_of)
            case "show":
                said = console.show(arguments.peer, as_of=arguments.as_of)
            case "pull":
                said = console.pull(arguments.peer, from_start=arguments.from_start)
            case "approve":
                said = console.approve(arguments.peer, accept_checkpoint=arguments.accept_checkpoint)
            case verb:
                said = {"check": console.check, "remove": console.remove}[verb](arguments.peer)
        return said.encode()

    return _at_node(run, is_raw=arguments.json)


def _scopes(arguments: argparse.Namespace) -> list[str]:
    return [scope for stated in arguments.scopes for scope in stated.split(",")]


def _peer_bearer() -> str:
    bearer = os.environ.get("STIGMEM_PEER_API_KEY")
    if not bearer:
        raise ConfigError("STIGMEM_PEER_API_KEY: not set; it is the bearer for the peer, a key that may federate there")
    return bearer


def _at_node(run, *, is_raw: bool = False) -> int:
    bearer = os.environ.get("STIGMEM_API_KEY")
    if not bearer:
        return _fail(ConfigError("STIGMEM_API_KEY: not set; it is the bearer for the node at STIGMEM_URL"))
    try:
        answer = run(os.environ.get("STIGMEM_URL", DEFAULT_URL), bearer)
    except client.NodeRefused as refused:
        if not is_raw or refused.answer is None:
            return _fail(refused)
        print(refused.answer.decode(), file=sys.stderr)
        return FAILED
    except (ConfigError, KeyFileError, Refusal, ValueError) as error:
        return _fail(error)
    print(answer.decode())
    return 0


def _fail(error: Exception) -> int:
    said = error.detail if isinstance(error, Refusal) else str(error)
    print(f"stigmem: {' '.join(said.split())}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
