"""What the commands that list and change things at a running node have in common.

Always: a command is a function from its arguments, the node's URL and the bearer to the text it prints.
"""

import argparse
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlencode

import msgspec

from node.client import ask

PAGE = 1000
Shown = dict[str, object]
Run = Callable[[argparse.Namespace, str, str], str]


class AtNode(Protocol):
    """Runs something at the node that the environment names, prints what comes of it, and returns the exit code."""

    def __call__(self, run: Callable[[str, str], bytes], *, is_raw: bool) -> int: ...


def handler(run: Run, at_node: AtNode) -> Callable[[argparse.Namespace], int]:
    """What the command does with its parsed arguments, `--json` among them."""

    def handle(arguments: argparse.Namespace) -> int:
        return at_node(lambda url, bearer: run(arguments, url, bearer).encode(), is_raw=arguments.json)

    return handle


def listed(path: str, member: str, url: str, bearer: str, **asked: str | None) -> list[Shown]:
    """What all pages of a listing hold under `member`; a parameter of None is left out."""
    found: list[Shown] = []
    query = {"limit": str(PAGE)} | {name: text for name, text in asked.items() if text is not None}
    has_more = True
    while has_more:
        page = msgspec.json.decode(ask(url, bearer, "GET", f"{path}?{urlencode(query)}"))
        found += page[member]
        has_more, query["cursor"] = page["has_more"], page["cursor"]
    return found
