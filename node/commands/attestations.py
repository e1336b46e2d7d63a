"""Attestations on a fact body: checked against the manifest of whoever is said to have signed (PROTOCOL §2.4).

Always: an attestation counts for a source only if its issuer is the source's own organisation or part of it.
"""

from collections.abc import Iterable

from node.canonical import b64url_decode
from node.commands.decision import Context
from node.errors import AttestationChainMismatch, AttestationChainTooLong, ProvenanceInvalid
from node.events.rotations import keys_for
from node.keys import verify
from node.projections.view import View
from node.uris import authority_of, lies_under

MAX_CHAIN = 16
# 64 bytes are 86 characters of base64url, 88 with padding.
SIGNATURE_CHARS = 88


def check_attestations(
    body: bytes,
    chain: tuple[str, ...],
    issuers: tuple[str, ...],
    *,
    dated_ms: int,
    view: View,
    context: Context,
    is_strict: bool,
) -> tuple[tuple[bool, ...], tuple[str, ...]]:
    """Which signatures hold over a fact of that date, and what to warn of.

    Raises AttestationChainMismatch, AttestationChainTooLong, and in strict mode ProvenanceInvalid for one that does not hold.
    """
    if not chain and not issuers:
        return (), ()
    if len(chain) != len(issuers):
        raise AttestationChainMismatch("attestation_chain: one issuer for each signature")
    if len(chain) > MAX_CHAIN:
        raise AttestationChainTooLong(f"attestation_chain: more than {MAX_CHAIN}")
    warnings = []
    if len(set(issuers)) != len(issuers):
        warnings.append("attestation_chain_issuers: an issuer stands there twice")
    verified = tuple(
        holds(body, signature, known_keys(issuer, view, context, dated_ms=dated_ms))
        for signature, issuer in zip(chain, issuers, strict=True)
    )
    warnings += [f"attestation_chain[{i}]: not verified" for i, held in enumerate(verified) if not held]
    if warnings and is_strict:
        raise ProvenanceInvalid(warnings[0])
    return verified, tuple(warnings)


def holds(body: bytes, signature: str, public_keys: Iterable[bytes]) -> bool:
    """Whether a base64url signature over a fact body is one of these keys'."""
    try:
        raw = b64url_decode(signature)
    except ValueError:
        return False
    return any(verify(public_key, body, raw) for public_key in public_keys)


def is_attested_by_source(source: str, issuers: tuple[str, ...], verified: tuple[bool, ...]) -> bool:
    """Whether the source's own organisation verifiably vouched for the fact."""
    # An issuer that vouches for somebody else's source proves nothing about that source.
    return bool(issuers) and any(
        held and (lies_under(source, issuer) or authority_of(source) == issuer)
        for issuer, held in zip(issuers, verified, strict=True)
    )


def known_keys(issuer: str, view: View, context: Context, *, dated_ms: int) -> tuple[bytes, ...]:
    """The public keys that accepted manifests give the issuer's organisation for something of that date, if any does.

    PROTOCOL §11: those that were current then, or later.
    """
    authority = authority_of(issuer)
    if authority is None:
        return ()
    if authority == context.node_id:
        return keys_for(view.identity.keys(), dated_ms)
    peer = view.peers.of_node(authority)
    return () if peer is None or peer.status != "active" else keys_for(peer.keys, dated_ms)
