"""A trace for people: what the fact says, each step with its offset, time and short proof, and how it stands (docs/audit.md)."""

from collections.abc import Callable, Iterator

from node.events.entry import Entry
from node.events.event import Actor
from node.events.facts import Fact, Judgement, Value
from node.times import format_ms
from replay.acts import Act
from replay.checked_log import Evidence, InclusionProof, proof_of
from replay.report import actor_words
from replay.shown import Output, cut
from replay.trace_steps import FactRef, Life, Standing, Step, TokenRef, Verb

_MOST_VALUE = 200
_SHORT = 12
_RULES = {
    "weighted": "the weighted sum",
    "first_contact": "first contact: the history term alone counts",
    "blocked": "the source is blocked",
}
_TERMS = ("identity", "history", "scope_authority", "attestation")


class TraceReport:
    """Collects each life's lines, and writes them life by life."""

    def __init__(self, lives: list[Life], evidence: Evidence) -> None:
        self._lives, self._evidence = lives, evidence
        self._lines: dict[int, list[str]] = {id(life): [] for life in lives}
        # The last entry proven in each: two steps of one entry have one proof.
        self._proven: dict[int, int] = {}
        self._width = max(len(str(evidence.size)), len("offset"))

    def tell(self, life: Life, step: Step, entry: Entry, act: Act) -> None:
        margin = " " * (self._width + 28)
        lines = self._lines[id(life)]
        lines.append(f"{entry.offset:>{self._width}}  {format_ms(entry.at_ms)}  {step_words(step, entry.actor)}")
        lines += [f"{margin}  {words}" for words in _more(step)]
        if self._proven.get(id(life)) != entry.offset:
            self._proven[id(life)] = entry.offset
            lines.append(f"{margin}  proof: {_short_proof(proof_of(entry, self._evidence))}")

    def write(self, standings: list[Standing | None], output: Output) -> None:
        evidence = self._evidence
        for line in evidence.heading():
            output.line(line)
        for life, standing in zip(self._lives, standings, strict=True):
            output.line("")
            for line in _heading(life.fact):
                output.line(line)
            output.line(f"{'offset':>{self._width}}  {'time (UTC)':<24}  what happened")
            for line in self._lines[id(life)]:
                output.line(line)
            if standing is not None:
                output.line(f"at the head: {_standing_words(standing)}")


def step_words(step: Step, actor: Actor) -> str:
    """One step in words; names in it are as they were logged."""
    return WORDS[step.verb](step, actor_words(actor))


# How each step is told; `who` caused the event.
WORDS: dict[Verb, Callable[[Step, str], str]] = {
    "written": lambda step, who: f"written by {who}{_inside(step.garden_id)}",
    "written_and_held": lambda step, who: (
        f"written by {who}, held in quarantine {step.garden_id}{_because(step.reason)}"
    ),
    "written_to_resolve": lambda step, who: f"written by {who} to resolve {step.conflict_id}{_because(step.reason)}",
    "received": lambda step, who: f"received from {step.peer} ({_way(step)})",
    "received_and_held": lambda step, who: (
        f"received from {step.peer} ({_way(step)}), held in quarantine {step.garden_id}{_because(step.reason)}"
    ),
    "refused": lambda step, who: f"brought by {step.peer} and refused{_because(step.reason)}",
    "countersigned": lambda step, who: (
        f"countersigned for {step.peer}, written there under token {step.token.token_id}"
    ),
    "admitted": lambda step, who: f"admitted by {who}{_inside(step.garden_id)}{_because(step.reason)}",
    "rejected": lambda step, who: f"rejected by {who}{_because(step.reason)}",
    "sealed": lambda step, who: "sealed, after it was written",
    "became_servable": lambda step, who: "from here on peers may be given it",
    "token_revoked": lambda step, who: f"its token was revoked by {who}{_because(step.reason)}",
    "garden_deleted": lambda step, who: f"its garden {step.garden_id} was deleted by {who}",
    "retracted": lambda step, who: f"retracted by {_fact_words(step.by)}",
    "superseded": lambda step, who: f"superseded by {_fact_words(step.by)}",
    "put_aside": lambda step, who: f"put aside by the resolution {_fact_words(step.by)}",
    "contradicted": lambda step, who: f"contradicted by {_fact_words(step.by)}: {step.conflict_id}",
    "contradiction_resolved": lambda step, who: f"{step.conflict_id} resolved by {_fact_words(step.by)}",
    "derived_from_it": lambda step, who: f"named as a parent by {_fact_words(step.by)}",
    "withdrew": lambda step, who: f"withdrew what its source had said: {len(step.facts)}",
    "in_page": lambda step, who: (
        f"{step.peer} asked for a page from {_cursor(step.cursor)}: it was in it, if its token named {', '.join(step.scopes)}"
    ),
    "given": lambda step, who: f"given to {step.peer}: it came back with {_cursor(step.cursor)}, which lies behind it",
}


def _more(step: Step) -> Iterator[str]:
    if step.token is not None and step.token.subject is not None:
        yield _token_words(step.token)
    if step.judgement is not None:
        yield from _judgement_words(step.judgement)
    for ref in step.facts:
        yield _fact_words(ref)


def _heading(fact: Fact | None) -> Iterator[str]:
    if fact is None:
        yield "under this name, and not among the facts here"
        return
    yield f"fact {fact.id} of {fact.origin}"
    yield f"  says       {fact.relation} of {fact.entity} = {_value_words(fact.value)}"
    yield f"  source     {fact.source}, confidence {fact.confidence!r}, scope {fact.scope}"
    yield f"  stated     {fact.timestamp}, hlc {fact.hlc}, valid until {fact.valid_until or 'it is withdrawn'}"
    yield f"  cid        {fact.cid}"
    yield f"  fact hash  {fact.fact_hash}"
    yield f"  parents    {', '.join(fact.derived_from) or 'none named'}"
    verified = zip(fact.attestation_chain_issuers, fact.attestation_verified, strict=False)
    attested = [f"{issuer} ({'verified' if holds else 'not verified'})" for issuer, holds in verified]
    yield f"  attested   {', '.join(attested) or 'by nobody'}"
    if fact.warnings:
        yield f"  warnings   {', '.join(fact.warnings)}"


def _judgement_words(judgement: Judgement) -> Iterator[str]:
    rule = _RULES[judgement.rule]
    yield f"trust {judgement.t!r}, {rule}; threshold {judgement.threshold!r}, mode {judgement.mode}"
    for name, weight in zip(_TERMS, judgement.weights, strict=True):
        yield f"  {name:<16} {getattr(judgement, name)!r} x weight {weight!r}"


def _token_words(token: TokenRef) -> str:
    return (
        f"token {token.token_id}: {token.verb} {token.object} for {token.subject} until {token.expiry}, "
        f"issued at offset {token.issued_offset} by {token.issued_by}"
    )


def _fact_words(ref: FactRef) -> str:
    denied = ", confidence 0" if ref.confidence == 0.0 else ""
    return f"fact {ref.id} (offset {ref.offset}) of {ref.source}: {_value_words(ref.value)}{denied}"


def _value_words(value: Value) -> str:
    instruction = ", an instruction" if value.interpret_as == "instruction" else ""
    return f"{_text_of(value.v)} ({value.type}{instruction})"


def _text_of(v: str | float | bool | None) -> str:
    match v:
        case None:
            return "null"
        case str():
            return f'"{cut(v, _MOST_VALUE)}"'
        case bool():
            return "true" if v else "false"
        case _:
            return repr(v)


def _way(step: Step) -> str:
    return f"pushed under nonce {step.nonce}" if step.nonce else f"read up to its cursor {step.cursor}"


def _short_proof(proof: InclusionProof) -> str:
    return (
        f"leaf {proof.leaf_hash[:_SHORT]}, {len(proof.hashes)} hashes to root {proof.root_hash[:_SHORT]} "
        f"of {proof.tree_size} entries"
    )


def _standing_words(standing: Standing) -> str:
    contradicted = ", contradicted" if standing.is_contradicted else ""
    return f"{standing.status.replace('_', ' ')}{contradicted}{_inside(standing.garden_id)}"


def _inside(garden_id: str | None) -> str:
    return "" if garden_id is None else f", in garden {garden_id}"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def _cursor(cursor: str | None) -> str:
    return f"cursor {cursor}" if cursor else "the beginning"
