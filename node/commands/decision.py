"""What a command is decided with and what comes of it: Principal, Context, Decision.

Always: deciding reads the View and the Context and writes nothing; equal inputs give equal decisions.

The table from command to decide is in `node/commands/__init__.py`.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Literal

from msgspec import Struct

from node.clock import Clock
from node.config import Config
from node.errors import InsufficientPermission, Refusal, ScopeNotPermitted
from node.events.api_keys import KeyGrant, Permission
from node.events.entry import Entry
from node.events.event import Actor, Event
from node.events.facts import Scope, TrustMode
from node.events.tokens import Grant
from node.keys import Signer
from node.projections.trust_lists import TrustLists
from node.projections.view import View
from node.refusals import MinuteShare, RefusalLimiter

Via = Literal["node", "admin", "anonymous", "capability", "peer", "key"]

DEFAULT_WEIGHTS = (0.35, 0.30, 0.25, 0.10)


class Principal(Struct, frozen=True, kw_only=True):
    """Whoever a request speaks for. `entity` is its URI or node_id; `grant` comes with a capability token alone, `key` with an
    API key. `idempotency_key` and `trace_id` are the request's.
    """

    via: Via
    entity: str
    grant: Grant | None = None
    key: KeyGrant | None = None
    trace_id: str | None = None
    idempotency_key: str | None = None

    @property
    def is_operator(self) -> bool:
        """The admin key, an API key that is to be like it, or anybody where authentication is off (loopback only)."""
        return self.via in ("admin", "anonymous") or (self.key is not None and "admin" in self.key.permissions)

    def may(self, permission: Permission) -> bool:
        """Whether an API key has that permission; whoever else is no operator has none."""
        return self.is_operator if self.key is None else permission in self.key.permissions

    def actor(self, *, credential: str | None = None) -> Actor:
        """How the log names this principal."""
        return Actor(
            principal=self.entity,
            via=self.via,
            credential=self._credential() or credential,
            idempotency_key=self.idempotency_key,
            trace_id=self.trace_id,
        )

    def _credential(self) -> str | None:
        if self.key is not None:
            return self.key.key_id
        return None if self.grant is None else self.grant.token_id


def require_permission(key: KeyGrant, permission: Permission) -> None:
    """Raises InsufficientPermission."""
    if permission not in key.permissions:
        raise InsufficientPermission(f"the key has not the permission {permission}")


def require_scopes(principal: Principal, scopes: Iterable[Scope], field: str) -> None:
    """Raises ScopeNotPermitted where an admin's key would give away a scope that it lacks: to a key of its own, in the end."""
    if principal.key is not None and not set(scopes) <= set(principal.key.allowed_scopes):
        raise ScopeNotPermitted(f"{field}: a scope that the key in use lacks itself")


class Context(Struct, frozen=True, kw_only=True):
    """What deciding may know beside the View: who this node is, how it is configured, and the time of this command.

    `at_ms` is the node's wall clock (epoch ms, never decreasing), `hlc` that of the event this command will make.
    """

    node_id: str
    config: Config
    signer: Signer
    clock: Clock
    refusals: RefusalLimiter
    attestations: MinuteShare
    at_ms: int
    hlc: str


class Rules(Struct, frozen=True, kw_only=True):
    """The rules of trust now in force: settings changed at run time, else the configuration."""

    mode: TrustMode
    threshold: float
    weights: tuple[float, float, float, float]
    lists: TrustLists
    quarantine_garden_id: str | None


class Decision(Struct, frozen=True, kw_only=True):
    """The events to append, and either a reply or a refusal.

    A refusal may carry events too: they are recorded, and then the caller is refused. `observed_hlc` is a peer's clock to take
    in before the events are stamped. `successor` signs what comes behind a KeyRotated among the events.
    """

    events: tuple[Event, ...] = ()
    actor: Actor | None = None
    reply: object = None
    refusal: Refusal | None = None
    observed_hlc: str | None = None
    successor: Signer | None = None


Decide = Callable[[Struct, View, Context], Decision]


class Outcome(Struct, frozen=True):
    """What a command came to: its reply, and the entries it made."""

    reply: object
    entries: tuple[Entry, ...]


# A command of several steps yields commands one by one, is sent what each came to (its outcome, or its refusal), and ends with a
# decision of its own. Where that is a refusal, nothing of what the steps did is kept.
Steps = Generator[Struct, Outcome | Refusal | None, Decision]
DecideInSteps = Callable[[Struct, View, Context], Steps]


def rules_in_force(view: View, config: Config) -> Rules:
    settings = view.identity.settings()
    threshold = settings.quarantine_trust_threshold
    return Rules(
        mode=settings.trust_mode or config.trust_mode,
        threshold=config.quarantine_trust_threshold if threshold is None else threshold,
        weights=settings.trust_weights or DEFAULT_WEIGHTS,
        lists=view.identity.trust_lists(),
        quarantine_garden_id=settings.quarantine_garden_id,
    )
