"""Which gardens a principal may know of, and what it may do in them (PROTOCOL §6.1, §6.4).

Always: an operator may all; an API key what its entity's role allows, with the permission that goes with it, in gardens of its
scopes; a capability token nothing. Whoever may not know of a garden gets one answer, whether or not it is there.
"""

from node.commands.decision import Principal
from node.commands.reading import MODERATING, reach_of
from node.errors import GardenForbidden, GardenNotFound, InsufficientPermission
from node.events.gardens import Role
from node.projections.access import Access
from node.projections.gardens import Garden
from node.projections.view import View


def find_garden(name: str, view: View, *, size: int | None = None) -> Garden:
    """The garden of an id, slug or URI, now or where the log has `size` entries. Raises GardenNotFound."""
    garden = _found(name, view, size)
    if garden is None:
        raise _not_found()
    return garden


def is_known(garden: Garden, access: Access) -> bool:
    """Whether whoever has this access may know that the garden is there."""
    return garden.scope in access.scopes and access.is_member(garden.id)


def known_garden(name: str, principal: Principal, view: View, *, size: int | None = None) -> Garden:
    """A garden that the principal may know of. Raises GardenNotFound alike for none and for another's."""
    garden = find_garden(name, view, size=size)
    if not is_known(garden, reach_of(principal, view)):
        raise _not_found()
    return garden


def administered_garden(name: str, principal: Principal, view: View) -> Garden:
    """A garden whose members the principal decides about. Raises GardenNotFound, or InsufficientPermission to other members."""
    garden = known_garden(name, principal, view)
    if not principal.is_operator and not _acts_as(principal, garden, view, ("admin",)):
        raise InsufficientPermission("only this garden's admins and the node's own may do that")
    return garden


def writable_garden(name: str, principal: Principal, view: View, *, field: str) -> Garden:
    """A garden, named in `field`, that the principal may write to. Raises GardenNotFound to operators, GardenForbidden else."""
    garden = _found(name, view)
    if principal.is_operator:
        if garden is None or not is_known(garden, reach_of(principal, view)):
            raise GardenNotFound(f"{field}: there is no such garden")
        return garden
    if garden is None or not _acts_as(principal, garden, view, ("admin", "writer")):
        raise GardenForbidden(f"{field}: not a garden that you may write to")
    return garden


def moderated_garden(name: str, principal: Principal, view: View) -> Garden:
    """A garden whose quarantine the principal decides about. Raises GardenNotFound to operators, InsufficientPermission else."""
    if principal.is_operator:
        return known_garden(name, principal, view)
    garden = _found(name, view)
    if garden is None or not _acts_as(principal, garden, view, MODERATING):
        raise InsufficientPermission(
            "only a garden's admins and moderators, and the node's own, decide about what it holds"
        )
    return garden


def require_visitor(principal: Principal) -> None:
    """Raises InsufficientPermission for whoever can be shown no garden at all."""
    if not principal.is_operator and not principal.may("read"):
        raise InsufficientPermission("this credential reads no gardens")


def _acts_as(principal: Principal, garden: Garden, view: View, roles: tuple[Role, ...]) -> bool:
    if not principal.may("write") or not is_known(garden, reach_of(principal, view)):
        return False
    member = view.members.member(garden.id, principal.entity)
    return member is not None and member.role in roles


def _found(name: str, view: View, size: int | None = None) -> Garden | None:
    return view.gardens.by_id(name, size) or view.gardens.by_slug(_slug_of(name, view), size)


def _slug_of(name: str, view: View) -> str:
    # Another authority's garden of that slug is not ours.
    birth = view.identity.birth()
    return name if birth is None else name.removeprefix(f"{birth.node_id}/garden/")


def _not_found() -> GardenNotFound:
    return GardenNotFound("there is no such garden")
