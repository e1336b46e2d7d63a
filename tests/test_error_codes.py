"""Every error code and its statuses: codes are part of the API, so this list only ever grows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from node import errors
from node.errors import Refusal
from node.http.errors import status_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "errors.md"

GOLDEN = {
    "malformed_json": {400},
    "invalid_cursor": {400},
    "cursor_foreign": {400},
    "attestation_chain_too_long": {400},
    "provenance_invalid": {400},
    "provenance_hash_invalid": {400},
    "provenance_unknown_parent": {400},
    "manifest_signature_invalid": {400},
    "manifest_rotation_chain_invalid": {400},
    "manifest_rolled_back": {400},
    "authentication_required": {401},
    "invalid_credentials": {401},
    "api_key_expired": {401},
    "api_key_revoked": {401},
    "api_key_asleep": {403},
    "api_key_not_found": {404},
    "api_key_exists": {409},
    "api_key_not_told": {409},
    "api_key_already_revoked": {409},
    "token_malformed": {401},
    "unknown_issuer": {401},
    "token_signature_invalid": {401},
    "timestamp_future_dated": {401},
    "token_lifetime_exceeded": {401},
    "malformed_token": {401},
    "token_expired": {401, 403},
    "unknown_or_inactive_peer": {401},
    "invalid_signature": {401},
    "invalid_sub": {401},
    "iat_in_future": {401},
    "token_before_restore": {401},
    "missing_nonce": {401},
    "nonce_already_seen": {401},
    "client_certificate_required": {401},
    "client_certificate_refused": {401},
    "insufficient_permission": {403},
    "reserved_namespace": {403},
    "source_not_owned": {403},
    "superseded_not_owned": {403},
    "garden_forbidden": {403},
    "quarantine_write_forbidden": {403},
    "trust_below_threshold": {403},
    "subject_not_delegated": {403},
    "token_asleep": {403},
    "token_revoked": {403},
    "insufficient_capability": {403},
    "entity_not_owned": {403},
    "manifest_conflict": {403},
    "federation_disabled": {403},
    "scope_not_permitted": {403},
    "scope_violation": {403},
    "attestation_refused": {403},
    "not_found": {404},
    "fact_not_found": {404},
    "conflict_not_found": {404},
    "conflict_already_resolved": {409},
    "key_forked": {409},
    "key_file_unwritable": {503},
    "winner_not_in_conflict": {422},
    "garden_not_found": {404},
    "member_not_found": {404},
    "tombstone_not_found": {404},
    "token_not_found": {404},
    "manifest_not_found": {404},
    "peer_not_found": {404},
    "method_not_allowed": {405},
    "push_disabled": {405},
    "request_timeout": {408},
    "garden_exists": {409},
    "member_exists": {409},
    "last_admin": {409},
    "quarantine_has_pending_facts": {409},
    "garden_in_use": {409},
    "idempotency_key_reused": {409},
    "fact_ambiguous": {409},
    "fact_not_quarantine_pending": {409},
    "nothing_to_confirm": {409},
    "entity_tombstoned": {409},
    "tombstone_already_revoked": {409},
    "tombstone_not_held": {409},
    "token_already_revoked": {409},
    "peer_not_active": {409},
    "not_awaiting_approval": {409},
    "log_forked": {409},
    "quarantine_garden_required": {409},
    "terms_changed": {409},
    "id_collision": {409},
    "body_too_large": {413},
    "text_too_large": {413},
    "unsupported_media_type": {415},
    "unsupported_encoding": {415},
    "wrong_host": {421},
    "missing_field": {422},
    "unknown_field": {422},
    "invalid_field": {422},
    "invalid_parameter": {422},
    "batch_refused": {422},
    "unsupported_parameter": {422},
    "invalid_uri": {422},
    "invalid_value": {422},
    "field_too_long": {422},
    "attestation_chain_mismatch": {422},
    "timestamp_out_of_window": {422},
    "garden_scope_mismatch": {422},
    "garden_not_quarantine": {422},
    "invalid_object": {422},
    "invalid_expiry": {422},
    "key_mismatch": {422},
    "key_id_mismatch": {422},
    "weak_key": {422},
    "self_sign_foreign_key": {422},
    "manifest_entity_foreign": {422},
    "manifest_validity": {422},
    "peer_id_taken": {422},
    "peer_url_forbidden": {422},
    "declaration_invalid": {422},
    "invalid_hlc": {422},
    "hlc_skew": {422},
    "cid_mismatch": {422},
    "invalid_fact": {422},
    "seal_invalid": {422},
    "proof_out_of_range": {422},
    "cosignature_invalid": {422},
    "quarantine_full": {429},
    "quota_exceeded": {429},
    "internal": {500},
    "peer_unreachable": {503},
    "peer_tls_refused": {503},
    "relay_lag_exceeded": {503},
    "peer_answer_invalid": {503},
    "peer_behind": {503},
    "log_unproven": {503},
    "storage_full": {503},
    "storage_failed": {503},
    "log_damaged": {503},
    "overloaded": {503},
    "not_ready": {503},
}


def refusals(kind: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    """Every class of `node.errors` that names a code of its own."""
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__ and "code" in vars(child):
            yield child
        yield from refusals(child)


def statuses_by_code() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for kind in refusals():
        found.setdefault(kind.code, set()).add(status_of(kind()))
    return found


def documented() -> dict[str, set[int]]:
    rows = re.findall(r"^\| `([a-z_]+)` \| ([0-9, ]+) \| \S.* \|$", DOCS.read_text(), re.MULTILINE)
    assert len({code for code, _ in rows}) == len(rows), "a code stands there twice"
    return {code: {int(status) for status in statuses.split(",")} for code, statuses in rows}


def names_used(path: Path) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}


def test_the_codes_and_their_statuses_are_the_golden_list():
    assert statuses_by_code() == GOLDEN


def test_the_page_of_error_codes_names_every_code_with_its_status():
    assert documented() == GOLDEN


def test_codes_are_lower_case_words():
    assert [code for code in GOLDEN if not re.fullmatch(r"[a-z]+(?:_[a-z]+)*", code)] == []


def test_no_code_lies_in_wait_for_somebody_to_raise_it():
    used = set().union(*(names_used(path) for folder in ("node", "replay") for path in (ROOT / folder).rglob("*.py")))

    assert [kind.__name__ for kind in refusals() if kind.__name__ not in used] == []
