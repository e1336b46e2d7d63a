"""`stigmem gardens`: gardens and their members at a running node, as an admin or with a key of one who is in them."""

import argparse
from typing import get_args
from urllib.parse import quote

import msgspec

from node.client import ask, columns, plain
from node.console import AtNode, Run, handler, listed
from node.events.facts import Scope
from node.events.gardens import Role

GARDENS = "/v1/gardens"


def add_garden_commands(commands: argparse._SubParsersAction, at_node: AtNode) -> None:
    gardens = commands.add_parser("gardens", help="gardens of a running node (STIGMEM_URL, STIGMEM_API_KEY)")
    verbs = gardens.add_subparsers(dest="gardens_command", required=True, metavar="COMMAND")
    described: dict[str, tuple[str, Run]] = {
        "create": ("make a garden; whoever makes it is its admin", _create),
        "list": ("the gardens that you are a member of", _list),
        "delete": ("delete a garden; its facts are left to the node's admins", _delete),
        "members": ("who is in a garden, and in which role", _members),
        "add": ("make somebody a member", _add),
        "change": ("give a member another role", _change),
        "remove": ("remove a member", _remove),
    }
    for name, (words, run) in described.items():
        verb = verbs.add_parser(name, help=words)
        if name != "list":
            verb.add_argument("garden", help="its slug" if name == "create" else "its slug, id or URI")
        if name in ("add", "change", "remove"):
            verb.add_argument("entity_uri", help="who, such as stigmem://org-a.example/agent/scribe")
        if name in ("add", "change"):
            verb.add_argument("--role", required=True, choices=get_args(Role))
        if name == "create":
            verb.add_argument("--name", help="what people call it; default: the slug")
            verb.add_argument("--scope", required=True, choices=get_args(Scope))
            verb.add_argument("--description", default="")
            verb.add_argument("--quarantine", action="store_true", help="for facts that wait for a moderator")
        verb.add_argument("--json", action="store_true", help="the node's answer as JSON")
        verb.set_defaults(handler=handler(run, at_node))


def _create(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    body = {
        "slug": arguments.garden,
        "name": arguments.name or arguments.garden,
        "scope": arguments.scope,
        "description": arguments.description,
        "quarantine": arguments.quarantine,
    }
    answer = ask(url, bearer, "POST", GARDENS, msgspec.json.encode(body))
    if arguments.json:
        return answer.decode()
    made = msgspec.json.decode(answer)
    return plain(f"{made['slug']}: {made['id']}, {made['garden_id']}")


def _list(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    found = listed(GARDENS, "gardens", url, bearer)
    if arguments.json:
        return msgspec.json.encode({"gardens": found}).decode()
    rows = [(one["slug"], one["scope"], "yes" if one["quarantine"] else "-", one["id"], one["name"]) for one in found]
    return columns([("GARDEN", "SCOPE", "QUARANTINE", "ID", "NAME"), *rows])


def _members(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    found = listed(_path(arguments, "members"), "members", url, bearer)
    if arguments.json:
        return msgspec.json.encode({"members": found}).decode()
    rows = [(one["entity_uri"], one["role"], one["added_at"], one["added_by"] or "-") for one in found]
    return columns([("MEMBER", "ROLE", "SINCE", "ADDED BY"), *rows])


def _delete(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    ask(url, bearer, "DELETE", _path(arguments))
    return "" if arguments.json else plain(f"{arguments.garden}: deleted")


def _add(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    body = {"entity_uri": arguments.entity_uri, "role": arguments.role}
    return _said(arguments, ask(url, bearer, "POST", _path(arguments, "members"), msgspec.json.encode(body)))


def _change(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    body = msgspec.json.encode({"role": arguments.role})
    return _said(arguments, ask(url, bearer, "PATCH", _path(arguments, "members", arguments.entity_uri), body))


def _remove(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    ask(url, bearer, "DELETE", _path(arguments, "members", arguments.entity_uri))
    return "" if arguments.json else plain(f"{arguments.entity_uri}: removed from {arguments.garden}")


def _said(arguments: argparse.Namespace, answer: bytes) -> str:
    if arguments.json:
        return answer.decode()
    member = msgspec.json.decode(answer)
    return plain(f"{member['entity_uri']}: {member['role']} of {arguments.garden}")


def _path(arguments: argparse.Namespace, *steps: str) -> str:
    return "/".join([GARDENS, *(quote(step, safe="") for step in (arguments.garden, *steps))])
