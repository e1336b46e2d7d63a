"""Rotating the node's own key (PROTOCOL §11).

Always: the rotation and the manifest under the new key are one append: there is no log that has the one without the other.

Does not touch key files (see `node/key_files.py`): the log says which key is current, and they follow it.
"""

import msgspec
from msgspec import Struct

from node.commands.decision import Context, Decision, Principal
from node.commands.gardens import require_operator
from node.commands.identity import renewed_manifest
from node.errors import InvalidField, ManifestRotationChainInvalid
from node.events.identity import KeyRotated
from node.events.rotations import MAX_ROTATIONS, RotationEvent, sign_rotation
from node.keys import Signer
from node.projections.view import View


class RotateKey(Struct, frozen=True, kw_only=True):
    """`kept` is what outlives the old key, sealed for the successor. `since_ms` (epoch): from when the old key was not alone ours;
    None where it is, or where that is from now on (`is_compromised`)."""

    principal: Principal
    successor: Signer
    kept: str
    is_compromised: bool
    since_ms: int | None


def decide_rotate_key(command: RotateKey, view: View, context: Context) -> Decision:
    """The reply is the rotation."""
    require_operator(command.principal)
    since_ms = command.since_ms
    if since_ms is not None and not command.is_compromised:
        raise InvalidField("since: only with compromised")
    if since_ms is not None and since_ms > context.at_ms:
        raise InvalidField("since: it lies in the future")
    if len(view.identity.keys()) > MAX_ROTATIONS:
        raise ManifestRotationChainInvalid(f"a manifest holds {MAX_ROTATIONS} rotations at most")
    document = sign_rotation(
        context.signer,
        command.successor.public_key,
        entity_uri=context.node_id,
        rotated_ms=context.at_ms,
        compromised_since_ms=context.at_ms if command.is_compromised and since_ms is None else since_ms,
    )
    rotation = msgspec.json.decode(document, type=RotationEvent)
    manifest = renewed_manifest(view, context, command.successor, rotation)
    return Decision(
        events=(KeyRotated(kept=command.kept, rotation=document), manifest),
        actor=command.principal.actor(),
        reply=rotation,
        successor=command.successor,
    )
