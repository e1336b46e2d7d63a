"""`stigmem trust`: how sources are trusted at a running node, why, and what is to be done with them."""

import argparse
from typing import get_args
from urllib.parse import urlencode

import msgspec

from node.client import NodeRefused, ask, columns, plain
from node.console import AtNode, Run, Shown, handler
from node.events.facts import Scope, TrustMode

CONFIG, TRUST = "/v1/admin/config", "/v1/trust"
_BACK = "default"
_ABSENT = {"blocked_sources": "not on the block list", "trust_rules": "there is no rule on it"}
_TERMS = ("identity", "history", "scope authority", "attestation")


def add_trust_commands(commands: argparse._SubParsersAction, at_node: AtNode) -> None:
    trust = commands.add_parser("trust", help="trust in sources at a running node (STIGMEM_URL, STIGMEM_API_KEY)")
    verbs = trust.add_subparsers(dest="trust_command", required=True, metavar="COMMAND")
    described: dict[str, tuple[str, Run]] = {
        "show": ("mode, threshold, weights, block list and rules", _show),
        "explain": ("why a source scores as it does, and what becomes of its facts", _explain),
        "set": ("another mode, threshold or weights; `default` goes back to what was configured at start", _set),
        "block": ("score a source 0, always", _block),
        "unblock": ("take a source off the block list", _taken_from("blocked_sources", "unblock")),
        "always": ("let a source in whatever it scores", _rule("always")),
        "never": ("score a source 0, and hold it whatever the threshold", _rule("never")),
        "unrule": ("take the rule on a source away", _taken_from("trust_rules", "remove_trust_rules")),
    }
    for name, (words, run) in described.items():
        verb = verbs.add_parser(name, help=words)
        if name not in ("show", "set"):
            verb.add_argument(
                "source", help="such as stigmem://org-b.example/agent; a rule also takes agent: with --origin"
            )
            verb.add_argument("--origin", help="whose it is, where anybody may use the name: stigmem://org-b.example")
        if name == "explain":
            verb.add_argument("--scope", default="public", choices=get_args(Scope))
        if name == "set":
            verb.add_argument(
                "--mode", type=mode, default=argparse.SUPPRESS, metavar="M", help="strict, relaxed or off"
            )
            verb.add_argument("--threshold", type=threshold, default=argparse.SUPPRESS, metavar="T", help="0 to 1")
            verb.add_argument(
                "--weights",
                type=weights,
                default=argparse.SUPPRESS,
                metavar="I,H,S,A",
                help="of identity, history, scope authority and attestation: four numbers that add up to 1",
            )
        verb.add_argument("--json", action="store_true", help="the node's answer as JSON")
        verb.set_defaults(handler=handler(run, at_node))


def mode(text: str) -> str | None:
    """Raises ValueError."""
    if text not in (*get_args(TrustMode), _BACK):
        raise ValueError("no mode")
    return None if text == _BACK else text


def share(text: str) -> float:
    """A number from 0 to 1; by this name argparse says what a text is not. Raises ValueError."""
    number = float(text)
    # JSON has no NaN: what is sent in its place would go back to the default.
    if not 0.0 <= number <= 1.0:
        raise ValueError("not from 0 to 1")
    return number


def threshold(text: str) -> float | None:
    return None if text == _BACK else share(text)


def weights(text: str) -> list[float] | None:
    return None if text == _BACK else [share(part) for part in text.split(",")]


def _show(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    return _shown(arguments, ask(url, bearer, "GET", CONFIG))


def _set(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    members = {"mode": "trust_mode", "threshold": "quarantine_trust_threshold", "weights": "trust_weights"}
    given = {member: getattr(arguments, name) for name, member in members.items() if name in arguments}
    return _changed(arguments, url, bearer, given)


def _block(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    return _changed(arguments, url, bearer, {"block": [_named(arguments)]})


def _taken_from(listed: str, change: str) -> Run:
    """Take what covers the source off a list; refused where nothing does, in whatever spelling it was named."""

    def take(arguments: argparse.Namespace, url: str, bearer: str) -> str:
        before = msgspec.json.decode(ask(url, bearer, "GET", CONFIG))[listed]
        answer = ask(url, bearer, "PATCH", CONFIG, msgspec.json.encode({change: [_named(arguments)]}))
        after = msgspec.json.decode(answer)[listed]
        if all(entry in after for entry in before):
            raise NodeRefused(f"{plain(arguments.source)}: {_ABSENT[listed]}")
        return _shown(arguments, answer)

    return take


def _rule(decision: str) -> Run:
    def add(arguments: argparse.Namespace, url: str, bearer: str) -> str:
        return _changed(arguments, url, bearer, {"add_trust_rules": [_named(arguments) | {"decision": decision}]})

    return add


def _named(arguments: argparse.Namespace) -> dict[str, str]:
    origin = {} if arguments.origin is None else {"origin": arguments.origin}
    return {"source": arguments.source} | origin


def _changed(arguments: argparse.Namespace, url: str, bearer: str, body: Shown) -> str:
    return _shown(arguments, ask(url, bearer, "PATCH", CONFIG, msgspec.json.encode(body)))


def _shown(arguments: argparse.Namespace, answer: bytes) -> str:
    if arguments.json:
        return answer.decode()
    stands = msgspec.json.decode(answer)
    weighed = ", ".join(f"{name} {weight}" for name, weight in zip(_TERMS, stands["trust_weights"], strict=True))
    blocked = [("blocked", one["source"], one["origin"] or "anybody") for one in stands["blocked_sources"]]
    rules = [(one["decision"], one["source"], one["origin"]) for one in stands["trust_rules"]]
    lines = [
        plain(f"mode {stands['trust_mode']}, threshold {stands['quarantine_trust_threshold']}"),
        plain(f"weights: {weighed}"),
    ]
    if blocked or rules:
        lines.append(columns([("RULE", "SOURCE", "ORIGIN"), *blocked, *rules]))
    return "\n".join(lines)


def _explain(arguments: argparse.Namespace, url: str, bearer: str) -> str:
    asked = urlencode(_named(arguments) | {"scope": arguments.scope})
    answer = ask(url, bearer, "GET", f"{TRUST}?{asked}")
    if arguments.json:
        return answer.decode()
    told = msgspec.json.decode(answer)
    by = "" if told["matched"] is None else f" ({told['matched']})"
    rows = [
        (one["term"], str(one["value"]), str(one["weight"]), str(one["contribution"]), one["why"])
        for one in told["terms"]
    ]
    becomes = told["now"]["outcome"] + ("" if told["now"]["reason"] is None else f": {told['now']['reason']}")
    lines = [
        plain(f"{told['source']} of {told['origin']}: t = {told['t']}, {told['rule']}{by}"),
        columns([("TERM", "VALUE", "WEIGHT", "ADDS", "WHY"), *rows]),
        plain(f"threshold {told['threshold']}, mode {told['mode']}; {told['first_contact']['why']}"),
        plain(f"a fact that a peer brings now: {becomes}"),
    ]
    return "\n".join(lines)
