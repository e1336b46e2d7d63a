"""What a principal may read: decided once from its credential and its memberships, applied below every read (PROTOCOL §2.5).

Always: who is given nothing here reads nothing; permissions and memberships are those of the view, so of now, also under `as_of`.
"""

from msgspec import structs

from node.commands.capabilities import is_garden_uri, scopes_of
from node.commands.decision import Principal, require_permission
from node.errors import InsufficientCapability
from node.events.api_keys import KeyGrant
from node.events.facts import Scope
from node.events.gardens import Role
from node.events.tokens import Grant
from node.projections.access import ALL_SCOPES, EVERYTHING, NOTHING, Access
from node.projections.view import View

# The roles that decide about what a garden holds in quarantine.
MODERATING: tuple[Role, ...] = ("admin", "quarantine:moderator")


def require_reader(principal: Principal) -> None:
    """Raises InsufficientPermission or InsufficientCapability for a credential that grants no reading."""
    if principal.key is not None:
        require_permission(principal.key, "read")
    elif not principal.is_operator and (principal.grant is None or principal.grant.verb != "read"):
        raise InsufficientCapability("this credential does not read facts")


def readable_by(principal: Principal, view: View) -> Access:
    """What a principal may read. Raises what `require_reader` does."""
    require_reader(principal)
    return reach_of(principal, view)


def known_to(principal: Principal, view: View) -> Access:
    """The facts that a writer may name: what it may read, or what it may write about."""
    if principal.key is not None and not (principal.may("read") or principal.may("write")):
        # Who neither reads nor writes facts may name none of them either.
        return NOTHING
    return reach_of(principal, view)


def reach_of(principal: Principal, view: View) -> Access:
    """How far a credential and the memberships of its bearer reach, whatever it is permitted to do there."""
    if principal.key is not None:
        return _reach_of_key(principal.key, principal, view)
    if principal.is_operator:
        return EVERYTHING
    return NOTHING if principal.grant is None else granted_by(principal.grant)


def administers_every_scope(principal: Principal) -> bool:
    """Whether it is an admin who is told what counts or names facts of every kind: an admin's key may be bounded to some scopes."""
    return principal.is_operator and (principal.key is None or set(ALL_SCOPES) <= set(principal.key.allowed_scopes))


def granted_by(grant: Grant) -> Access:
    """The part of the facts outside gardens that a token's object names; gardens take a membership, which no token is."""
    if grant.object == "*":
        return _outside_gardens()
    if is_garden_uri(grant.object):
        return NOTHING
    scopes = scopes_of(grant.object)
    return _outside_gardens(scopes=scopes) if scopes else _outside_gardens(entity_prefix=grant.object)


def _outside_gardens(*, scopes: tuple[Scope, ...] = ALL_SCOPES, entity_prefix: str | None = None) -> Access:
    return Access(scopes=scopes, entity_prefix=entity_prefix, gardens=frozenset(), moderates=frozenset())


def _reach_of_key(key: KeyGrant, principal: Principal, view: View) -> Access:
    if principal.is_operator:
        return structs.replace(EVERYTHING, scopes=key.allowed_scopes)
    gardens, moderates = [], []
    for membership in view.members.of_entity(principal.entity):
        garden = view.gardens.by_id(membership.garden_id)
        # A member still needs the scope.
        if garden is None or garden.scope not in key.allowed_scopes:
            continue
        gardens.append(garden.id)
        if membership.role in MODERATING:
            moderates.append(garden.id)
    return Access(
        scopes=key.allowed_scopes, entity_prefix=None, gardens=frozenset(gardens), moderates=frozenset(moderates)
    )
