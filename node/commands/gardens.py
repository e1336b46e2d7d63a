"""Gardens and moderation: creating and deleting gardens, promoting and rejecting what waits in quarantine (PROTOCOL §6).

Always: the gardens' own admins and moderators decide, and this node's operators; no capability token does.
"""

import re

from msgspec import Struct

from node.commands.decision import Context, Decision, Principal, require_permission
from node.commands.reading import reach_of
from node.commands.roles import administered_garden, moderated_garden, writable_garden
from node.errors import (
    FactAmbiguous,
    FactNotFound,
    FactNotQuarantinePending,
    GardenExists,
    GardenInUse,
    GardenScopeMismatch,
    InsufficientPermission,
    InvalidField,
    QuarantineHasPendingFacts,
    QuarantineWriteForbidden,
    ScopeNotPermitted,
)
from node.events.facts import Scope
from node.events.gardens import FactPromoted, FactRejected, GardenCreated, GardenDeleted
from node.projections.access import is_readable
from node.projections.gardens import Garden, Held
from node.projections.view import View
from node.uris import check_plain, is_uuid

MAX_NAME_CHARS = 200
MAX_DESCRIPTION_CHARS = 2000
MAX_REASON_CHARS = 2000
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


class CreateGarden(Struct, frozen=True, kw_only=True):
    principal: Principal
    slug: str
    name: str
    scope: Scope
    description: str
    is_quarantine: bool


class DeleteGarden(Struct, frozen=True, kw_only=True):
    """`garden` is an id, slug or URI."""

    principal: Principal
    garden: str


class PromoteFact(Struct, frozen=True, kw_only=True):
    """Admit a fact from `garden`'s quarantine into `target`, a garden's id, slug or URI, or None for the facts outside gardens.

    `origin` is needed where two organisations use that id.
    """

    principal: Principal
    garden: str
    fact_id: str
    origin: str | None = None
    target: str | None
    reason: str


class RejectFact(Struct, frozen=True, kw_only=True):
    principal: Principal
    garden: str
    fact_id: str
    origin: str | None = None
    reason: str


def decide_create_garden(command: CreateGarden, view: View, context: Context) -> Decision:
    _require_right_to_create(command, view)
    # A slug that looks like an id could stand for another garden wherever both are taken.
    if not _SLUG.fullmatch(command.slug) or is_uuid(command.slug):
        raise InvalidField("slug: lower-case letters, digits and inner hyphens, at most 64, and no UUID")
    _check_text("name", command.name, MAX_NAME_CHARS, is_required=True)
    _check_text("description", command.description, MAX_DESCRIPTION_CHARS)
    if view.gardens.is_slug_taken(command.slug):
        raise GardenExists("slug: it is taken, or was")
    event = GardenCreated(
        id=context.clock.new_id(),
        slug=command.slug,
        name=command.name,
        scope=command.scope,
        description=command.description,
        is_quarantine=command.is_quarantine,
        created_by=command.principal.entity,
    )
    return Decision(events=(event,), actor=command.principal.actor(), reply=event.id)


def decide_delete_garden(command: DeleteGarden, view: View, context: Context) -> Decision:
    garden = administered_garden(command.garden, command.principal, view)
    if view.gardens.has_pending(garden.id):
        raise QuarantineHasPendingFacts("facts wait there for a moderator")
    if view.identity.settings().quarantine_garden_id == garden.id:
        raise GardenInUse("it is the designated quarantine garden")
    return Decision(events=(GardenDeleted(garden_id=garden.id),), actor=command.principal.actor())


def decide_promote_fact(command: PromoteFact, view: View, context: Context) -> Decision:
    held = _held_pending(command, view)
    fact = view.facts.at(held.place).fact
    if fact.value.interpret_as == "instruction" and not command.principal.is_operator:
        # Else who may not write one could have it written with a token, and admit it (PROTOCOL §8.4).
        require_permission(command.principal.key, "instruction:write")
    target = None
    if command.target is not None:
        target = writable_garden(command.target, command.principal, view, field="target_garden_id")
    if target is not None:
        _check_target(target, fact.scope)
    event = FactPromoted(
        fact_id=held.fact_id,
        origin=held.origin,
        garden_id=held.garden_id,
        target_garden_id=target.id if target else None,
        reason=command.reason,
    )
    return Decision(events=(event,), actor=command.principal.actor(), reply=event)


def decide_reject_fact(command: RejectFact, view: View, context: Context) -> Decision:
    held = _held_pending(command, view)
    event = FactRejected(fact_id=held.fact_id, origin=held.origin, garden_id=held.garden_id, reason=command.reason)
    return Decision(events=(event,), actor=command.principal.actor(), reply=event)


def require_operator(principal: Principal) -> None:
    """Raises InsufficientPermission for anybody but the node's own operators."""
    if not principal.is_operator:
        raise InsufficientPermission("only an admin of this node may do that")


def _require_right_to_create(command: CreateGarden, view: View) -> None:
    principal = command.principal
    if not principal.is_operator and not principal.may("write"):
        raise InsufficientPermission("only an admin of this node, or a key that writes, makes gardens")
    if command.is_quarantine and not principal.is_operator:
        raise InsufficientPermission("quarantine: only an admin of this node makes quarantine gardens")
    if command.scope not in reach_of(principal, view).scopes:
        raise ScopeNotPermitted("scope: not one of this key's")


def _held_pending(command: PromoteFact | RejectFact, view: View) -> Held:
    garden = moderated_garden(command.garden, command.principal, view)
    _check_text("reason", command.reason, MAX_REASON_CHARS)
    access = reach_of(command.principal, view)
    found = (held for held in view.gardens.held(garden.id, command.fact_id) if command.origin in (None, held.origin))
    held = [one for one in found if is_readable(view.facts.at(one.place), access)]
    if not held:
        raise FactNotFound("that fact is not in this garden's quarantine")
    pending = [one for one in held if one.status == "pending"]
    if not pending:
        raise FactNotQuarantinePending(f"the fact was {held[0].status} already")
    if len(pending) > 1:
        # A peer may give its own fact the id of another's: what was read must be what is decided on.
        raise FactAmbiguous("fact_id: facts of several organisations wait under it; name the origin")
    return pending[0]


def _check_target(target: Garden, scope: Scope) -> None:
    if target.is_quarantine:
        raise QuarantineWriteForbidden("target_garden_id: it is a quarantine garden itself")
    if target.scope != scope:
        raise GardenScopeMismatch(f"target_garden_id: the garden's scope is {target.scope}, the fact's {scope}")


def _check_text(field: str, text: str, max_chars: int, *, is_required: bool = False) -> None:
    check_plain(text, field)
    if is_required and not text.strip():
        raise InvalidField(f"{field}: empty")
    if len(text) > max_chars:
        raise InvalidField(f"{field}: more than {max_chars} characters")
