"""The audit for people: grouped by day (UTC), aligned, totals at the end. Plain text (docs/audit.md).

Always: memory is bounded by the number of event types, not of events.
"""

from collections import Counter

from node.events.entry import Entry
from node.events.event import Actor
from node.projections.view import View
from node.times import format_ms
from replay.acts import Act
from replay.checked_log import Evidence
from replay.shown import Output
from replay.things import Thing

_ACTOR_WIDTH = 34
_TOTAL_ROLES = (
    "asserted",
    "resolution",
    "quarantined",
    "received",
    "held",
    "refused",
    "admitted",
    "rejected",
    "sealed",
    "retracted",
    "superseded",
    "put_aside",
)


class ReportWriter:
    """Writes the report; the events it is given are those that passed the filters."""

    def __init__(self, output: Output, evidence: Evidence) -> None:
        self._output, self._evidence = output, evidence
        self._width = max(len(str(evidence.size)), len("offset"))
        self._day = ""
        self._by_type: Counter[str] = Counter()
        self._by_via: Counter[str] = Counter()
        self._facts: Counter[str] = Counter()
        self._conflicts: Counter[str] = Counter()

    def begin(self) -> None:
        for line in self._evidence.heading():
            self._output.line(line)

    def event(self, entry: Entry, act: Act, view: View) -> None:
        day, _, time = format_ms(entry.at_ms).removesuffix("Z").partition("T")
        if day != self._day:
            self._day = day
            self._output.line("")
            self._output.line(f"{day} (UTC)")
            self._output.line(f"  {'offset':>{self._width}}  {'time':<12}  {'who':<{_ACTOR_WIDTH}}  did what")
        who = actor_words(entry.actor)
        self._output.line(f"  {entry.offset:>{self._width}}  {time:<12}  {who:<{_ACTOR_WIDTH}}  {act.words}")
        for words in _followed(act.things):
            self._output.line(f"  {'':>{self._width}}  {'':<12}  {'':<{_ACTOR_WIDTH}}    {words}")
        self._count(entry, act)

    def end(self) -> None:
        self._output.line("")
        self._output.line(f"totals: {self._by_type.total()} of {self._evidence.size} events")
        self._totals("events", self._by_type)
        self._totals("caused by", self._by_via)
        self._totals("facts", self._facts)
        self._totals("contradictions", self._conflicts)

    def _count(self, entry: Entry, act: Act) -> None:
        self._by_type[entry.type] += 1
        self._by_via[entry.actor.via] += 1
        for thing in act.things:
            if thing.kind == "fact" and thing.role in _TOTAL_ROLES:
                self._facts[thing.role] += 1
            elif thing.kind == "conflict" and thing.role in ("contradicted", "settled"):
                self._conflicts[thing.role] += 1

    def _totals(self, heading: str, counts: Counter[str]) -> None:
        if counts:
            self._output.line(f"  {heading}")
        for name in sorted(counts):
            self._output.line(f"    {name:<28} {counts[name]:>9}")


def actor_words(actor: Actor) -> str:
    """Whoever caused an event, as people call them."""
    match actor.via:
        case "node":
            return "the node"
        case "admin":
            return "the admin key"
        case "anonymous":
            return "anybody (authentication was off)"
        case "capability":
            return f"{actor.principal} (token {actor.credential})"
        case "key":
            return f"{actor.principal} (API key {actor.credential})"
        case _:
            return str(actor.principal)


_FOLLOWED = {
    "retracted": "which retracted",
    "superseded": "which superseded",
    "put_aside": "which put aside",
    "contradicted": "which opened",
    "settled": "which settled",
}


def _followed(things: tuple[Thing, ...]) -> list[str]:
    """One line for each kind of thing that followed, and one for each fact of a page that was not simply accepted."""
    said = []
    for thing in things:
        if thing.role in ("held", "refused") and thing.kind == "fact":
            said.append(f"{thing.role} fact {thing.id or '(without an id)'} of {thing.source}: {thing.reason}")
        elif thing.role in _FOLLOWED:
            what = thing.id if thing.kind == "conflict" else f"fact {thing.id} of {thing.source}"
            said.append(f"{_FOLLOWED[thing.role]} {what}")
    return said
