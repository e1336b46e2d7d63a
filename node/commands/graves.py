"""Whether a fact may be about an entity at all: nothing is written or taken in about one that is gone (PROTOCOL §15)."""

from node.errors import EntityIsTombstoned
from node.events.facts import Scope
from node.projections.view import View


def require_not_tombstoned(entity: str, scope: Scope, view: View) -> None:
    """Raises EntityIsTombstoned where a tombstone of this node's reaches an entity, by its name in normal form, in that scope."""
    if view.facts.is_tombstoned(entity, scope):
        raise EntityIsTombstoned("entity: it is tombstoned here")
