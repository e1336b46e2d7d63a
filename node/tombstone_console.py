"""`stigmem tombstones`: which entities are gone at a running node, and having one removed, as an admin."""

import argparse
from typing import get_args
from urllib.parse import quote

import msgspec

from node.client import ask, columns, plain
from node.console import AtNode, Run, handler, listed
from node.events.tombstones import TombstoneScope

TOMBSTONES = "/v1/tombstones"


def add_tombstone_commands(commands: argparse._SubParsersAction, at_node: AtNode) -> None:
    tombstones = commands.add_parser("tombstones", help="entities that are gone (STIGMEM_URL, STIGMEM_API_KEY)")
    verbs = tombstones.add_subparsers(dest="tombstones_command", required=True, metavar="COMMAND")
    described: dict[str, tuple[str, Run]] = {
        "add": ("remove an entity from every read and, unless held, erase it", _add),
        "list": ("the tombstones of this node, or with --peers those that peers showed", _list),
        "show": ("one tombstone", _show),
        "lift-hold": ("lift a legal hold: what it kept is erased", _lift),
        "revoke": ("revoke a tombstone: what was not erased is read again", _revoke),
    }
    for name, (words, run) in described.items():
        verb = verbs.add_parser(name, help=words)
        if name == "add":
            verb.add_argument("entity_uri", help="which, such as stigmem://org-a.example/user/alice")
            verb.add_argument("--scope", default="*", choices=get_args(TombstoneScope), help="default: * for all")
            verb.add_argument("--legal-hold", action="store_true", help="hide it and erase nothing until it is lifted")
        elif name == "list":
            verb.add_argument("--peers", action="store_true", help="what peers showed of theirs")
        else:
            verb.add_argument("tombstone", help="its id")
        if name in ("add", "lift-hold", "revoke"):
            verb.add_argument("--reason", default="")
        verb.add_argument("--json", action="store_true", help="the node's answer as JSON")
        verb.set_defaults(handler=handler(run, at_node))


def _add(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    body = {
        "entity_uri": arguments.entity_uri,
        "scope": arguments.scope,
        "reason": arguments.reason,
        "legal_hold": arguments.legal_hold,
    }
    made = ask(url, bearer, "POST", TOMBSTONES, msgspec.json.encode(body))
    # What became of it by now: the answer says how it began.
    return _said(arguments, ask(url, bearer, "GET", _path(msgspec.json.decode(made)["id"])))


def _list(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    found = listed(TOMBSTONES, "tombstones", url, bearer, of="peers" if arguments.peers else None)
    if arguments.json:
        return msgspec.json.encode({"tombstones": found}).decode()
    if arguments.peers:
        rows = [
            (one["entity_uri"], one["scope"], one["peer"], str(one["facts_hidden"]), str(one["facts_left"]), _end(one))
            for one in found
        ]
        return columns([("ENTITY", "SCOPE", "PEER", "HIDDEN", "LEFT", "REVOKED"), *rows])
    rows = [(one["entity_uri"], one["scope"], one["status"], one["created_at"], one["id"]) for one in found]
    return columns([("ENTITY", "SCOPE", "STATUS", "SINCE", "ID"), *rows])


def _show(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    return _said(arguments, ask(url, bearer, "GET", _path(arguments.tombstone)))


def _lift(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    return _changed(arguments, url, bearer, "lift-hold")


def _revoke(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    return _changed(arguments, url, bearer, "revoke")


def _changed(arguments: argparse.Namespace, url: str, bearer: str, step: str) -> str:
    body = msgspec.json.encode({"reason": arguments.reason})
    return _said(arguments, ask(url, bearer, "POST", _path(arguments.tombstone, step), body))


def _said(arguments: argparse.Namespace, answer: bytes) -> str:
    if arguments.json:
        return answer.decode()
    one = msgspec.json.decode(answer)
    erased = f", {one['erased_items']} items erased" if one["status"] == "erased" else ""
    return plain(f"{one['entity_uri']} in scope {one['scope']}: {one['status']}{erased} ({one['id']})")


def _end(one: dict[str, str | None]) -> str:
    return one["revoked_at"] or "-"


def _path(*steps: str) -> str:
    return "/".join([TOMBSTONES, *(quote(step, safe="") for step in steps)])
