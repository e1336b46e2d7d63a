"""What `stigmem log verify` says of a file: a proof bundle or a checkpoint, under a key that somebody trusts (docs/proofs.md).

Always: nothing but the bytes handed in is looked at; whatever they are, the answer is lines of what holds, or DoesNotHold.

Does not open files or print.
"""

import json

import msgspec
from msgspec import Struct

from node.canonical import b64url_decode, canonical_json
from node.errors import Refusal
from node.events.checkpoint import Checkpoint, origin_of
from node.events.cosignature import cosigned_at
from node.events.proof_bundle import (
    Bundle,
    LogKey,
    Proven,
    check_bundle,
    check_extends,
    check_note,
    fact_in,
    open_bundle,
    open_proof,
)
from node.events.signed_note import ED25519, TIMESTAMPED_ED25519, VerifierKey, parse_verifier_key
from node.keys import is_sound_public_key, key_id_of, verify
from node.strict_json import scan_json
from node.times import format_ms
from replay.log_source import DoesNotHold, NotDone

_HEX_KEY_CHARS = 64


class Asked(Struct, frozen=True, kw_only=True):
    """The file to judge, and what it is judged by."""

    file: bytes
    key: LogKey
    older: bytes | None
    consistency: bytes | None
    witnesses: tuple[VerifierKey, ...]


def verdict(asked: Asked) -> list[str]:
    """What is proven, a line each. Raises DoesNotHold with the first thing that does not hold."""
    try:
        bundle = open_bundle(asked.file) if asked.file.lstrip()[:1] == b"{" else None
        if bundle is None:
            note = asked.file.decode()
            checkpoint, said, own = check_note(note, asked.key), [], None
        else:
            proven = check_bundle(bundle, asked.key)
            note, checkpoint, said, own = bundle.checkpoint, proven.checkpoint, _proven(proven), bundle
        return [_checkpoint_line(checkpoint), *_witnessed(note, asked), *_compared(checkpoint, own, asked), *said]
    except ValueError as error:
        raise DoesNotHold(str(error)) from error


def key_named(text: str) -> LogKey:
    """The log's key as `log head` prints it, in base64url, or in hex. NotDone where it is none."""
    try:
        if "+" in text:
            named = parse_verifier_key(text)
            if named.kind != ED25519:
                raise ValueError("it is a witness's key")
            return LogKey(public_key=named.public_key, origin=named.name)
        raw = bytes.fromhex(text) if len(text) == _HEX_KEY_CHARS else b64url_decode(text)
        if not is_sound_public_key(raw):
            raise ValueError("it is no sound Ed25519 key")
    except ValueError as error:
        raise NotDone(f"--public-key: {error}") from error
    return LogKey(public_key=raw)


def witness_named(text: str) -> VerifierKey:
    try:
        key = parse_verifier_key(text)
    except ValueError as error:
        raise NotDone(f"--witness: {error}") from error
    # A node's own key, as it is printed for its log, serves for its cosignatures too: those have another kind and name.
    if key.kind != TIMESTAMPED_ED25519:
        raise NotDone("--witness: the key is not one for timestamped cosignatures")
    return key


def key_in_manifest(raw: bytes) -> LogKey:
    """Key and log name of the node whose manifest this is. Raises DoesNotHold where the manifest is not signed by that key."""
    try:
        document = scan_json(raw)
        if not isinstance(document, dict):
            raise ValueError("not an object")
        signed = {name: value for name, value in document.items() if name not in ("signature", "log_entry")}
        key, signature = b64url_decode(str(document["public_key"])), b64url_decode(str(document["signature"]))
        if not is_sound_public_key(key) or key_id_of(key) != document["key_id"]:
            raise ValueError("key_id is not that of its key")
        if not verify(key, canonical_json(signed), signature):
            raise ValueError("its signature does not verify")
        return LogKey(public_key=key, origin=origin_of(str(document["entity_uri"])))
    except KeyError as error:
        raise DoesNotHold(f"the manifest has no {error.args[0]}") from error
    except Refusal as error:
        raise DoesNotHold(f"the manifest: {error.detail}") from error
    except ValueError as error:
        raise DoesNotHold(f"the manifest: {error}") from error


def _checkpoint_line(checkpoint: Checkpoint) -> str:
    return f"holds: checkpoint of {checkpoint.origin}, {checkpoint.size} entries, root {checkpoint.root.hex()}"


def _witnessed(note: str, asked: Asked) -> list[str]:
    lines = []
    for witness in asked.witnesses:
        try:
            time_s = cosigned_at(note, witness)
        except ValueError as error:
            raise ValueError(f"witness {witness.name}: {error}") from error
        lines.append(f"holds: cosigned by {witness.name} at {_time(time_s)}")
    return lines


def _compared(checkpoint: Checkpoint, bundle: Bundle | None, asked: Asked) -> list[str]:
    """That the checkpoint that somebody kept and this one are of one log, whichever is the older."""
    if asked.older is None:
        if asked.consistency is not None:
            raise NotDone("--consistency says how two checkpoints belong together: give the other one (--checkpoint)")
        return []
    try:
        kept = check_note(asked.older.decode(), asked.key)
    except ValueError as error:
        raise ValueError(f"the checkpoint that you kept: {error}") from error
    first, second = sorted((kept, checkpoint), key=lambda one: one.size)
    check_extends(first.size, first.root, second, _hashes_between(first, second, bundle, asked))
    return [f"holds: the log of {second.size} entries goes on from that of {first.size}"]


def _hashes_between(first: Checkpoint, second: Checkpoint, bundle: Bundle | None, asked: Asked) -> tuple[str, ...]:
    if first.size in (0, second.size):
        return ()
    if asked.consistency is not None:
        proof = open_proof(asked.consistency)
        if (proof.log_index, proof.tree_size) != (first.size, second.size):
            raise ValueError(f"the consistency proof is not from {first.size} to {second.size} entries")
        return proof.hashes
    if (
        bundle is not None
        and bundle.consistency
        and (bundle.consistency.tree_size, bundle.tree_size)
        == (
            first.size,
            second.size,
        )
    ):
        return bundle.consistency.hashes
    raise ValueError(f"no consistency proof from {first.size} to {second.size} entries is at hand")


def _proven(proven: Proven) -> list[str]:
    header = proven.header
    older = proven.goes_on_from
    lines = [] if older is None else [f"holds: it goes on from {older.tree_size} entries with root {older.root_hash}"]
    if header is None:
        return [
            *lines,
            f"holds: the leaf {proven.leaf.hex()} stands at {proven.log_index}; its entry is not in the bundle",
        ]
    lines.append(f"holds: entry {proven.log_index}, {header.type}, logged at {header.at}, hlc {header.hlc}")
    if proven.item is None:
        return lines
    fact = fact_in(header.type, proven.item)
    if fact is None:
        return [*lines, f"item {proven.item_index}: {_ascii(proven.item)}"]
    return [*lines, f"fact: {_ascii(msgspec.json.encode(fact))}"]


def _ascii(raw: bytes) -> str:
    """JSON in ASCII alone; what is no JSON as a Python bytes literal."""
    try:
        return json.dumps(json.loads(raw))
    except (ValueError, RecursionError):
        return ascii(raw)


def _time(time_s: int) -> str:
    try:
        return format_ms(time_s * 1000)
    except ValueError:
        return f"second {time_s} after 1970"
