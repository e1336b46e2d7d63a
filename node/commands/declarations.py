"""Our own signed declaration: who and where this node is, and what it is willing to exchange (PROTOCOL §5.1, INTEROP §2).

Always: it is built from this node's own settings and from checked scopes; nothing that was sent is signed as it came.
Always: its five values are ASCII, where canonical JSON and the reference's escaping have the same bytes.

Is no event: what a peer makes of it is the peer's to record. Does not judge a peer's declaration (see `peers.py`).
"""

from msgspec import Struct, to_builtins

from node.canonical import b64url_encode, canonical_json
from node.commands.decision import Context, Principal
from node.commands.gardens import require_operator
from node.commands.peers import check_scopes
from node.errors import FederationDisabled, InvalidField
from node.events.facts import Scope
from node.times import format_ms


class Declared(Struct, frozen=True, kw_only=True):
    """The five members that are signed; `signed_at` is RFC 3339, and newer than that of every declaration before."""

    allowed_scopes: tuple[Scope, ...]
    federation_pubkey: str
    node_id: str
    node_url: str
    signed_at: str


class SignedDeclaration(Declared, frozen=True, kw_only=True):
    """What a peer's registration route takes."""

    declaration_sig: str


def own_declaration(principal: Principal, scopes: tuple[Scope, ...], context: Context) -> SignedDeclaration:
    """Sign, for an admin, that this node exchanges facts of these scopes. Raises the refusal."""
    require_operator(principal)
    config = context.config
    if not config.federation_enabled:
        # The peer would look for our key in the discovery document, which shows none.
        raise FederationDisabled("STIGMEM_FEDERATION_ENABLED is off")
    check_scopes(scopes, context)
    if not config.node_url.isascii():
        raise InvalidField("node_url: a declaration is in ASCII; spell STIGMEM_NODE_URL so (xn--..., %..)")
    declared = Declared(
        # The array is signed in the order in which it is sent.
        allowed_scopes=tuple(sorted(scopes)),
        federation_pubkey=context.signer.public_key_b64,
        node_id=context.node_id,
        node_url=config.node_url,
        signed_at=format_ms(context.at_ms),
    )
    members = to_builtins(declared)
    signature = context.signer.sign(canonical_json(members))
    return SignedDeclaration(**members, declaration_sig=b64url_encode(signature))
