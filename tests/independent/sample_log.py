"""Small logs made by docs/log-format.md alone, to be read by verifier.py: sound ones, and ones spoilt on purpose.

Always: deterministic (key, salts and times follow from the offset), and made without node/ or replay/.
`SampleLog` keeps the rows in plain dicts until `write`, so a test can spoil any byte of any table first.
"""

import base64
import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import lmdb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt
from nacl.pwhash import argon2id

from tests.independent.merkle import hash_children, hash_leaf, inclusion_proof, root_of
from tests.independent.sealed import OWN_NAME, derived

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()
KEY_ID = sha256(PUBLIC_KEY).digest()
ORIGIN = "org-a.example/stigmem-log"
ACTOR = {"principal": None, "via": "node", "credential": None, "idempotency_key": None, "trace_id": None}
# Of an encrypted log: its file key, and what that may be wrapped under.
FILE_KEY_ID = bytes(range(100, 116))
ITEMS_KEY, VIEWS_KEY = sha256(b"items").digest(), sha256(b"views").digest()
SECRETS = {"key_file": b"\x5e" * 32, "node_key": bytes(range(32)), "passphrase": "käse und brot".encode()}


@dataclass
class SampleLog:
    """The tables as dicts from key bytes to value bytes; `key_file` is `at-rest.key`, empty where the log is in clear."""

    meta: dict[bytes, bytes] = field(default_factory=lambda: {b"format": b"1"})
    keys: dict[bytes, bytes] = field(default_factory=lambda: {KEY_ID: PUBLIC_KEY})
    headers: dict[bytes, bytes] = field(default_factory=dict)
    items: dict[bytes, bytes] = field(default_factory=dict)
    tree: dict[bytes, bytes] = field(default_factory=dict)
    item_keys: dict[bytes, bytes] = field(default_factory=dict)
    key_file: bytes = b""

    def append(self, *datas: bytes, **changed: object) -> None:
        """One more entry over `datas`; `changed` replaces members of its header before it is signed."""
        offset = len(self.headers)
        stored = [(sha256(b"%d/%d" % (offset, i)).digest()[:16], data) for i, data in enumerate(datas)]
        header = {
            "v": 1,
            "offset": offset,
            "prev": self.leaves()[-1].hex() if offset else "0" * 64,
            "hlc": f"{1_777_896_000_000 + offset:013d}.000",
            "at": f"2026-05-04T12:00:00.{offset:03d}Z",
            "type": "fact.asserted.1",
            "key_id": KEY_ID.hex(),
            "items": [sha256(salt + data).hexdigest() for salt, data in stored],
        } | changed
        for index, (salt, data) in enumerate(stored):
            self.items[offset.to_bytes(8) + index.to_bytes(4)] = b"\x00" + salt + data
        self.put_header(offset, compact(header))

    def put_header(self, offset: int, header_bytes: bytes) -> None:
        signature = KEY.sign(b"stigmem-event/v1\n" + header_bytes)
        self.headers[offset.to_bytes(8)] = header_bytes + signature
        self.hash_tree()

    def hash_tree(self) -> None:
        self.tree = {}
        level, hashes = 0, self.leaves()
        while hashes:
            self.tree |= {level.to_bytes(1) + i.to_bytes(8): h for i, h in enumerate(hashes)}
            hashes = [hash_children(*hashes[i : i + 2]) for i in range(0, len(hashes) - 1, 2)]
            level += 1

    def leaves(self) -> list[bytes]:
        return [hash_leaf(value) for _, value in sorted(self.headers.items())]

    def write(self, data_dir: Path) -> Path:
        (data_dir / "log").mkdir(parents=True)
        with lmdb.open(str(data_dir / "log"), max_dbs=8, map_size=1 << 24) as environment:
            for name in ("meta", "keys", "headers", "items", "tree", *(["item_keys"] if self.item_keys else [])):
                table = environment.open_db(name.encode())
                with environment.begin(db=table, write=True) as transaction:
                    for key, value in getattr(self, name).items():
                        transaction.put(key, value)
        if self.key_file:
            (data_dir / "at-rest.key").write_bytes(self.key_file)
        return data_dir


def sound_log(size: int) -> SampleLog:
    log = SampleLog()
    for offset in range(size):
        log.append(compact(ACTOR), compact({"entity": f"stigmem://org-a.example/user/{offset}"}))
    return log


def erasing_log(size: int, *places: tuple[int, int]) -> SampleLog:
    """A sound log whose last entry erases these items, offset and index; they are gone."""
    log = sound_log(size)
    erase(log, *places)
    for offset, index in places:
        del log.items[row_key(offset, index)]
    return log


def erase(log: SampleLog, *places: tuple[int, int]) -> None:
    """One more entry, that erases; the rows stay."""
    packed = b"".join(row_key(*place) + b"\xff" * 8 for place in places)
    said = {"tombstone_id": "t", "entity_uri": "stigmem://org-a.example/user/1", "organisations": []}
    log.append(compact(ACTOR), compact(said), base64.b64encode(packed), type="entity.erased.1")


def sealed_log(log: SampleLog, source: str = "key_file") -> SampleLog:
    """The same log encrypted, each fact under its own entity's key; nonces and keys follow from where they are used."""
    own = sha256(b"own").digest()
    keys = {OWN_NAME: own}
    naming = derived(own, b"names of entities' keys")
    for place, row in log.items.items():
        if row[17:].startswith(b'{"entity":'):
            entity = json.loads(row[17:])["entity"].encode()
            keys[derived(naming, entity, 16)] = sha256(entity).digest()
            log.items[place] = seal_item(derived(naming, entity, 16), sha256(entity).digest(), place, row[1:])
        elif not _is_list_of_places(log, place):
            log.items[place] = seal_item(OWN_NAME, own, place, row[1:])
    log.item_keys = {name: seal(ITEMS_KEY, b"stigmem-item-key/v1" + name, key) for name, key in keys.items()}
    log.meta[b"at_rest"] = FILE_KEY_ID
    log.key_file = compact({"v": 1, "id": FILE_KEY_ID.hex(), "wraps": [_wrap(source)]})
    return log


def seal_item(name: bytes, key: bytes, place: bytes, committed: bytes) -> bytes:
    return b"\x01" + name + seal(key, place + name, committed)


def seal(key: bytes, place: bytes, message: bytes) -> bytes:
    nonce = sha256(place + message).digest()[:24]
    return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(message, place, nonce, key)


def row_key(offset: int, index: int) -> bytes:
    return offset.to_bytes(8) + index.to_bytes(4)


def _is_list_of_places(log: SampleLog, place: bytes) -> bool:
    return place[8:] == (2).to_bytes(4) and b'"type":"entity.erased.1"' in log.headers[place[:8]]


def _wrap(source: str) -> dict[str, object]:
    is_passphrase = source == "passphrase"
    salt, passes, memory_bytes = (b"s" * 16, 1, 1 << 16) if is_passphrase else (b"", 0, 0)
    wrapping = {
        "key_file": SECRETS["key_file"],
        "node_key": derived(SECRETS["node_key"], b"at-rest"),
        "passphrase": argon2id.kdf(32, SECRETS["passphrase"], b"s" * 16, opslimit=1, memlimit=1 << 16),
    }[source]
    sealed = seal(wrapping, b"stigmem-at-rest/v1" + FILE_KEY_ID, ITEMS_KEY + VIEWS_KEY)
    return {
        "source": source,
        "salt": salt.hex(),
        "passes": passes,
        "memory_bytes": memory_bytes,
        "sealed": sealed.hex(),
    }


def compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def checkpoint_of(size: int, root: bytes, origin: str = ORIGIN) -> str:
    text = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    return f"{text}\n{signature_line(text, origin)}"


def signature_line(text: str, name: str, key: Ed25519PrivateKey = KEY) -> str:
    key_hash = sha256(name.encode() + b"\n\x01" + key.public_key().public_bytes_raw()).digest()[:4]
    return f"\u2014 {name} {base64.b64encode(key_hash + key.sign(text.encode())).decode()}\n"


def sample_manifest() -> dict[str, object]:
    manifest = {
        "manifest_version": 1,
        "entity_uri": "stigmem://org-a.example",
        "public_key": _base64url(PUBLIC_KEY),
        "key_id": KEY_ID.hex(),
        "entities": ["stigmem://org-a.example"],
        "rotation_events": [],
        "issued_at": "2026-05-04T12:00:00.000Z",
        "expires_at": "2027-05-04T12:00:00.000Z",
    }
    return manifest | {"signature": _base64url(KEY.sign(canonical(manifest)))}


def manifest_log_entry(manifest: dict[str, object], *, others: int) -> dict[str, object]:
    """The proof of PROTOCOL §10.2 for a log that holds the manifest between `others` facts on either side."""
    log = sound_log(others)
    log.append(compact(ACTOR), canonical(manifest), type="manifest.published.1")
    for _ in range(others):
        log.append(compact(ACTOR))
    leaves, item = log.leaves(), log.items[others.to_bytes(8) + (1).to_bytes(4)]
    return {
        "log_index": others,
        "leaf_hash": leaves[others].hex(),
        "tree_size": len(leaves),
        "root_hash": root_of(leaves).hex(),
        "hashes": [h.hex() for h in inclusion_proof(others, leaves)],
        "checkpoint": checkpoint_of(len(leaves), root_of(leaves)),
        "log_id": KEY_ID.hex(),
        "integrated_time": "2026-05-04T12:00:00.000Z",
        "entry": base64.b64encode(log.headers[others.to_bytes(8)]).decode(),
        "item": base64.b64encode(item[17:]).decode(),
        "item_salt": base64.b64encode(item[1:17]).decode(),
    }


def canonical(document: dict[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
