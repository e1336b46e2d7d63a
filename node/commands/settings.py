"""Settings that change at run time: how trust is reckoned, who is blocked, who is let in or held by a rule (PROTOCOL §6.2, §7).

Always: an entry of the block list, and a rule, names an identity (origin, source): an informal name is somebody's.
Always: lists are changed by the writer, entry by entry where so asked: of two operators at once neither undoes the other.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.commands.decision import Context, Decision, Principal
from node.commands.drafts import check_name
from node.commands.gardens import require_operator
from node.commands.roles import find_garden
from node.errors import GardenNotFound, GardenNotQuarantine, InvalidField
from node.events.facts import TrustMode
from node.events.identity import BlockedSource, TrustRule, TrustSettings, TrustSettingsChanged
from node.projections.gardens import Garden
from node.projections.trust_lists import PREFIX_ENDS
from node.projections.view import View
from node.uris import authority_of, normal_field

MAX_LISTED = 1000
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
Weights = Annotated[tuple[Ratio, ...], Meta(min_length=4, max_length=4)]
RuleDecision = Literal["always", "never"]


class NamedSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity as a caller names it; `origin` may be left out where the source says it: a `stigmem://` one, or a node_id."""

    source: str
    origin: str | None = None


class NamedRule(NamedSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    decision: RuleDecision


class Changes(Struct, frozen=True, kw_only=True):
    """Only what is given changes; null goes back to the configuration at start. A whole list comes before what is taken from it
    (`unblock`, `remove_trust_rules`), and that before what is added (`block`, `add_trust_rules`)."""

    quarantine_garden_id: str | None | UnsetType = UNSET
    trust_mode: TrustMode | None | UnsetType = UNSET
    quarantine_trust_threshold: Ratio | None | UnsetType = UNSET
    trust_weights: Weights | None | UnsetType = UNSET
    blocked_sources: tuple[str | NamedSource, ...] | UnsetType = UNSET
    unblock: tuple[str | NamedSource, ...] = ()
    block: tuple[str | NamedSource, ...] = ()
    trust_rules: tuple[NamedRule, ...] | UnsetType = UNSET
    remove_trust_rules: tuple[str | NamedSource, ...] = ()
    add_trust_rules: tuple[NamedRule, ...] = ()


class ChangeSettings(Struct, frozen=True, kw_only=True):
    principal: Principal
    changes: Changes


def decide_change_settings(command: ChangeSettings, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    standing = view.identity.settings()
    settings = _changed(standing, command.changes, view, context)
    if settings == standing:
        return Decision()
    return Decision(events=(TrustSettingsChanged(settings=settings),), actor=command.principal.actor())


def named_identity(
    field: str, named: str | NamedSource, view: View, *, default_origin: str | None = None
) -> tuple[str, str]:
    """(origin, source) of what a caller names. Raises FieldTooLong, InvalidField, InvalidUri, each with the field."""
    named = NamedSource(source=named) if isinstance(named, str) else named
    check_name(field, named.source)
    # A foreign node's id is no URI of ours and is never put into normal form.
    if named.origin is None and view.peers.of_node(named.source) is not None:
        return named.source, named.source
    source = normal_field(field, named.source)
    authority = authority_of(source)
    if named.origin is None and authority is None and default_origin is None:
        raise InvalidField(f"{field}: anybody may use the name {source}: say whose, with `origin`")
    if named.origin is None:
        return authority or default_origin, source
    origin = _organisation(field, named.origin, view)
    if authority not in (None, origin):
        raise InvalidField(f"{field}: {source} is no source of that origin")
    return origin, source


def _organisation(field: str, text: str, view: View) -> str:
    check_name(field, text)
    if view.peers.of_node(text) is not None:
        return text
    origin = normal_field(field, text)
    if authority_of(origin) != origin:
        raise InvalidField(f"{field}: origin: neither an organisation's URI nor a peer's node_id")
    return origin


def _changed(standing: TrustSettings, changes: Changes, view: View, context: Context) -> TrustSettings:
    plain: dict[str, object] = {}
    if changes.trust_mode is not UNSET:
        plain["trust_mode"] = changes.trust_mode
    if changes.quarantine_trust_threshold is not UNSET:
        plain["quarantine_trust_threshold"] = changes.quarantine_trust_threshold
    if changes.quarantine_garden_id is not UNSET:
        plain["quarantine_garden_id"] = _garden_id(changes.quarantine_garden_id, view)
    if changes.trust_weights is not UNSET:
        plain["trust_weights"] = _checked_weights(changes.trust_weights)
    return structs.replace(
        standing,
        blocked_sources=_blocked(standing, changes, view),
        trust_rules=_rules(standing, changes, view, context),
        **plain,
    )


def _garden_id(name: str | None, view: View) -> str | None:
    if name is None:
        return None
    found = _garden_named(name, view)
    if not found.is_quarantine:
        raise GardenNotQuarantine("quarantine_garden_id: that garden is an ordinary one")
    return found.id


def _garden_named(name: str, view: View) -> Garden:
    try:
        return find_garden(name, view)
    except GardenNotFound as error:
        raise GardenNotFound(f"quarantine_garden_id: {error.detail}") from None


def _checked_weights(weights: Weights | None) -> Weights | None:
    if weights is not None and abs(sum(weights) - 1.0) > 1e-9:
        raise InvalidField("trust_weights: they must add up to 1")
    return weights


def _blocked(standing: TrustSettings, changes: Changes, view: View) -> tuple[BlockedSource, ...]:
    listed = {(entry.origin, entry.source) for entry in standing.blocked_sources}
    if changes.blocked_sources is not UNSET:
        listed = set(_blockable("blocked_sources", changes.blocked_sources, view))
    for origin, source in _names("unblock", changes.unblock, view):
        # An entry of before there were origins goes too: it would block what was asked to be let go.
        listed -= {(origin, source), (None, source)}
    listed |= set(_blockable("block", changes.block, view))
    _check_count("blocked_sources", len(listed))
    in_order = sorted(listed, key=lambda entry: (entry[0] or "", entry[1]))
    return tuple(BlockedSource(origin=origin, source=source) for origin, source in in_order)


def _rules(standing: TrustSettings, changes: Changes, view: View, context: Context) -> tuple[TrustRule, ...]:
    rules: dict[tuple[str, str], RuleDecision]
    rules = {(rule.origin, rule.source): rule.decision for rule in standing.trust_rules}
    if changes.trust_rules is not UNSET:
        rules = _named_rules("trust_rules", changes.trust_rules, view, context)
    for name in _names("remove_trust_rules", changes.remove_trust_rules, view):
        rules.pop(name, None)
    rules |= _named_rules("add_trust_rules", changes.add_trust_rules, view, context)
    _check_count("trust_rules", len(rules))
    return tuple(
        TrustRule(decision=decision, origin=origin, source=source)
        for (origin, source), decision in sorted(rules.items())
    )


def _named_rules(
    field: str, named: tuple[NamedRule, ...], view: View, context: Context
) -> dict[tuple[str, str], RuleDecision]:
    _check_count(field, len(named))
    rules: dict[tuple[str, str], RuleDecision] = {}
    for rule in named:
        name = named_identity(field, NamedSource(source=rule.source, origin=rule.origin), view)
        if name[0] == context.node_id:
            raise InvalidField(f"{field}: what this organisation says itself is held back by no rule")
        if rules.setdefault(name, rule.decision) != rule.decision:
            raise InvalidField(f"{field}: both always and never for {name[1]}")
    return rules


def _names(field: str, named: tuple[str | NamedSource, ...], view: View) -> list[tuple[str, str]]:
    _check_count(field, len(named))
    return [named_identity(field, name, view) for name in named]


def _blockable(field: str, named: tuple[str | NamedSource, ...], view: View) -> list[tuple[str, str]]:
    names = _names(field, named, view)
    for origin, source in names:
        if origin != source and source.endswith(PREFIX_ENDS):
            raise InvalidField(
                f"{field}: {source} is a prefix; the block list has names, a `never` rule takes prefixes"
            )
    return names


def _check_count(field: str, count: int) -> None:
    if count > MAX_LISTED:
        raise InvalidField(f"{field}: more than {MAX_LISTED}")
