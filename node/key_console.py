"""`stigmem keys`: making, listing and revoking API keys at a running node, and rotating the node's own key.

Always: a key that was made is on stdout, alone but for `--json`, and nowhere else; what is said of it goes to stderr.
"""

import argparse
import sys
from urllib.parse import quote

import msgspec

from node.client import ask, columns, plain
from node.console import AtNode, Shown, handler, listed

KEYS = "/v1/auth/keys"


def add_key_commands(commands: argparse._SubParsersAction, at_node: AtNode) -> None:
    keys = commands.add_parser(
        "keys", help="API keys of a running node, and its own key (STIGMEM_URL, STIGMEM_API_KEY)"
    )
    verbs = keys.add_subparsers(dest="keys_command", required=True, metavar="COMMAND")
    create = verbs.add_parser("create", help="make a key; it is printed once")
    create.add_argument("entity_uri", help="in whose name it speaks, such as stigmem://org-a.example/agent/scribe")
    create.add_argument(
        *("--permission", "--permissions"),
        dest="permissions",
        action="append",
        required=True,
        help="read, write, instruction:write, federate, admin: with commas between, or once for each",
    )
    create.add_argument(
        *("--scope", "--scopes"), dest="scopes", action="append", help="scopes it reads and writes (all), likewise"
    )
    create.add_argument(
        "--source",
        dest="sources",
        action="append",
        default=[],
        help="a source it may name beside its entity; agent: is every agent:...; once for each",
    )
    create.add_argument("--expires-at", metavar="TIME", help="an RFC 3339 time; default: as late as the node allows")
    create.add_argument("--description", default="", help="what it is for")
    listing = verbs.add_parser("list", help="all keys, newest first")
    listing.add_argument("--as-of", metavar="WHEN", help="as the log had it: an RFC 3339 time, or offset:N")
    revoke = verbs.add_parser("revoke", help="take a key back, at once")
    revoke.add_argument("key_id")
    rotate = verbs.add_parser("rotate", help="have the node go on under a new key of its own; no restart")
    rotate.add_argument("--compromised", action="store_true", help="the old key is in other hands: trust it no longer")
    rotate.add_argument("--since", metavar="TIME", help="with --compromised: since when; an RFC 3339 time, default now")
    for verb, run in ((create, _create), (listing, _list), (revoke, _revoke), (rotate, _rotate)):
        verb.add_argument("--json", action="store_true", help="the node's answer as JSON")
        verb.set_defaults(handler=handler(run, at_node))


def _create(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    body: Shown = {
        "entity_uri": arguments.entity_uri,
        "permissions": _words(arguments.permissions),
        "allowed_sources": arguments.sources,
        "description": arguments.description,
    }
    body |= {} if arguments.scopes is None else {"allowed_scopes": _words(arguments.scopes)}
    body |= {} if arguments.expires_at is None else {"expires_at": arguments.expires_at}
    answer = ask(url, bearer, "POST", KEYS, msgspec.json.encode(body))
    if arguments.json:
        return answer.decode()
    made = msgspec.json.decode(answer)
    said = f"key {made['key_id']} for {made['entity_uri']}, until {made['expires_at']}; it is not shown again"
    print(f"stigmem: {plain(said)}", file=sys.stderr)
    return made["raw_key"]


def _list(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    found = listed(KEYS, "keys", url, bearer, as_of=arguments.as_of)
    if arguments.json:
        return msgspec.json.encode({"keys": found}).decode()
    return columns([("KEY", "ENTITY", "PERMISSIONS", "SCOPES", "EXPIRES", "STATUS", "DESCRIPTION"), *map(_row, found)])


def _revoke(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    ask(url, bearer, "DELETE", f"{KEYS}/{quote(arguments.key_id, safe='')}")
    return "" if arguments.json else plain(f"{arguments.key_id}: revoked")


def _rotate(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    if arguments.since is not None and not arguments.compromised:
        raise ValueError("--since: only with --compromised")
    body: Shown = {"compromised": arguments.compromised}
    body |= {} if arguments.since is None else {"since": arguments.since}
    answer = ask(url, bearer, "POST", "/v1/admin/keys/rotate", msgspec.json.encode(body))
    if arguments.json:
        return answer.decode()
    rotation = msgspec.json.decode(answer)
    old, new = rotation["old_key_id"][:12], rotation["new_key_id"][:12]
    return plain(f"the node's key is {new} since {rotation['rotated_at']}; {old} is kept beside it")


def _words(stated: list[str]) -> list[str]:
    return [word for words in stated for word in words.split(",") if word]


def _row(key: Shown) -> tuple[str, ...]:
    return (
        key["key_id"],
        key["entity_uri"],
        ",".join(key["permissions"]),
        ",".join(key["allowed_scopes"]) or "none",
        key["expires_at"],
        key["status"],
        key["description"] or "-",
    )
