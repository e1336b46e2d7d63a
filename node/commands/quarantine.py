"""Why a fact from outside is held back, in the protocol's order of reasons, and how many may wait (PROTOCOL §6.3)."""

from node.commands.decision import Rules
from node.commands.trust import is_blocked, is_covered_by_manifest
from node.errors import QuarantineFull
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
    if is_strict and is_blocked(source, organisation, rules):
        return _PREFIX + "source blocked"
    if is_instruction:
        return _PREFIX + "instruction from another organisation"
    if not is_strict or judgement is None:
        return None
    if not is_provenance_sound:
        return _PREFIX + "provenance failed"
    if not is_covered_by_manifest(view, organisation, node_id, now_ms):
        return _PREFIX + "no valid manifest for source"
    if judgement.t < rules.threshold:
        return _PREFIX + f"source_trust below threshold (t={judgement.t:.2f})"
    return _PREFIX + "attestation missing" if lacks_attestation else None


def require_room(organisation: str, view: View, *, besides: int = 0) -> None:
    """Raises QuarantineFull where too many facts of that organisation wait already, counting `besides` more."""
    if view.gardens.pending_of(organisation) + besides >= MAX_PENDING:
        raise QuarantineFull(f"{MAX_PENDING} facts of that organisation wait for a moderator")
