"""The block list and the rules of trust, made ready to be asked what they say of a source (PROTOCOL §7).

Always: identities are compared, (origin, source): what one organisation says under an informal name is nothing to another's.
Always: the block list wins over `never`, and `never` over `always`, however exact their names are.
Always: asking takes as many look-ups as there are names above the source, however many entries there are.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from node.events.identity import BlockedSource, SettingsChanged, TrustRule, TrustSettings, TrustSettingsChanged
from node.uris import authority_of

PREFIX_ENDS = (":", "/")
_Decision = Literal["blocked", "never", "always"]


class Listed(Struct, frozen=True):
    """What the lists say of a source, and by which entry of theirs."""

    decision: _Decision
    source: str


class TrustLists:
    """The lists of one settings event."""

    __slots__ = ("_always", "_blocked", "_never", "is_empty")

    def __init__(self, blocked: tuple[BlockedSource, ...], rules: tuple[TrustRule, ...]) -> None:
        self._blocked = {(entry.origin, entry.source) for entry in blocked}
        self._never = {(rule.origin, rule.source) for rule in rules if rule.decision == "never"}
        self._always = {(rule.origin, rule.source) for rule in rules if rule.decision == "always"}
        self.is_empty = not blocked and not rules

    def listed(self, source: str, organisation: str) -> Listed | None:
        """What is said of a source, in normal form, of that organisation, and by which entry: the nearest that says so."""
        if self.is_empty:
            return None
        for name in (source, *_names_above(source, organisation)):
            if (organisation, name) in self._blocked or (None, name) in self._blocked:
                return Listed("blocked", name)
        names = (source, *_prefixes_of(source), *_names_above(source, organisation))
        return _nearest("never", self._never, organisation, names) or _nearest(
            "always", self._always, organisation, names
        )


EMPTY_LISTS = TrustLists((), ())


def lists_of(settings: TrustSettings) -> TrustLists:
    if not settings.blocked_sources and not settings.trust_rules:
        return EMPTY_LISTS
    return TrustLists(settings.blocked_sources, settings.trust_rules)


def settings_of(event: SettingsChanged | TrustSettingsChanged) -> TrustSettings:
    """The settings that stand from an event on. Those of before there were rules block an informal name whoever says it."""
    if isinstance(event, TrustSettingsChanged):
        return event.settings
    settings = event.settings
    return TrustSettings(
        quarantine_garden_id=settings.quarantine_garden_id,
        trust_mode=settings.trust_mode,
        quarantine_trust_threshold=settings.quarantine_trust_threshold,
        trust_weights=settings.trust_weights,
        blocked_sources=tuple(
            BlockedSource(origin=authority_of(source), source=source) for source in settings.blocked_sources
        ),
        trust_rules=(),
    )


def _nearest(
    decision: _Decision, entries: set[tuple[str, str]], organisation: str, names: tuple[str, ...]
) -> Listed | None:
    return next((Listed(decision, name) for name in names if (organisation, name) in entries), None)


def _names_above(source: str, organisation: str) -> Iterator[str]:
    """What the source lies under by the authority rule, nearest first; above an informal name is its organisation alone."""
    authority = authority_of(source)
    if authority is None:
        yield organisation
        return
    while source != authority:
        source = source.rpartition("/")[0]
        yield source


def _prefixes_of(source: str) -> Iterator[str]:
    """The beginnings of an informal name that end in `:` or `/`, longest first."""
    if authority_of(source) is None:
        yield from (source[:end] for end in range(len(source), 0, -1) if source[end - 1] in PREFIX_ENDS)
