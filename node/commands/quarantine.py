"""Why a fact from outside is held back, in the protocol's order of reasons, and how many may wait (PROTOCOL §6.3)."""

from node.commands.decision import Rules
from node.commands.trust import is_covered_by_manifest, listed_as
from node.errors import QuarantineFull, TrustBelowThreshold
from node.events.facts import Judgement
from node.projections.view import View
from node.uris import origin_of

MAX_PENDING = 10_000
_PREFIX = "auto-quarantine: "


def hold_reason(
    view: View,
    rules: Rules,
    *,
    node_id: str,
    source: str,
    origin: str,
    judgement: Judgement | None,
    is_instruction: bool,
    is_provenance_sound: bool,
    lacks_attestation: bool,
    now_ms: int,
) -> str | None:
    """The first reason that holds a fact of another organisation back; None where it may stand. `source` in normal form."""
    organisation = origin_of(source, origin)
    is_strict = rules.mode == "strict"
    listed = listed_as(view, rules, source, organisation) if is_strict else None
    if listed is not None and listed.decision != "always":
        said = "source blocked" if listed.decision == "blocked" else f"source never trusted (rule {listed.source})"
        return _PREFIX + said
    if is_instruction:
        return _PREFIX + "instruction from another organisation"
    if not is_strict or judgement is None:
        return None
    if not is_provenance_sound:
        return _PREFIX + "provenance failed"
    if not is_covered_by_manifest(view, organisation, node_id, now_ms):
        return _PREFIX + "no valid manifest for source"
    # An `always` rule stands in for the score, by a threshold of 0, and for nothing that comes before or after it.
    if judgement.t < judgement.threshold:
        return _PREFIX + f"source_trust below threshold (t={judgement.t:.2f})"
    return _PREFIX + "attestation missing" if lacks_attestation else None


def place_to_wait(reason: str, organisation: str, rules: Rules, view: View, *, besides: int = 0) -> str:
    """The id of the garden where a fact of that organisation is held for that reason.

    Raises TrustBelowThreshold where none is designated, QuarantineFull where too many wait already, counting `besides` more.
    """
    garden_id = rules.quarantine_garden_id
    if garden_id is None or view.gardens.by_id(garden_id) is None:
        raise TrustBelowThreshold(f"{reason}; no quarantine garden is designated")
    if view.gardens.pending_of(organisation) + besides >= MAX_PENDING:
        raise QuarantineFull(f"{MAX_PENDING} facts of that organisation wait for a moderator")
    return garden_id
