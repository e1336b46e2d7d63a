"""Make a snapshot of a log, also beside the node that writes it: one file, there whole or not at all.

Always: the log is only read, in short transactions, so that a node's writes neither wait nor make its file grow; what is read is
checked on the way: chain, commitments, and the root over it all. The data folder is not locked and nothing is written to it.
Always: the log is read by a process of its own, which a damaged file may take down.

Does not check signatures of entries (see replay/verify.py).
"""

import multiprocessing
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

from msgspec import UNSET, Struct

from node.canonical import b64url_encode
from node.durable import sync
from node.errors import LogDamaged, Refusal
from node.events.checkpoint import Checkpoint, sign_checkpoint
from node.keys import Signer
from node.times import format_ms
from replay.chain import Damaged, NotALog, damage_of, require_format
from replay.opening import open_log, require_unlocked
from replay.snapshots.container import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    chunk_name,
    deflate,
    write_end,
    write_member,
)
from replay.snapshots.manifest import (
    CHUNK_BYTES,
    FORMAT,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    SEALED_FORMAT,
    AtRest,
    Chunk,
    Manifest,
    NotASnapshot,
    encode_manifest,
    open_manifest,
    sign_manifest,
)
from replay.snapshots.reading import Reading
from replay.snapshots.rows import KeyRow, pack_keys, pack_rows
from replay.verify import require_log
from replay.workers import end_as_others_say, how_it_ended

# Behind the node's own work where the two want one processor.
_NICENESS = 10
# So near to it the offset lies that is named where the file takes the reader down.
_TOLD_EVERY = 64
_FORK = multiprocessing.get_context("fork")


class Wanted(Struct, frozen=True, kw_only=True):
    """What to make: of which folder, into which file, from which offset or snapshot on, signed by whom.

    `target` is the file to make, or a folder (`is_folder`): the file's name then says what it holds.
    """

    data_dir: Path
    target: Path
    is_folder: bool
    since: int | Manifest
    signer: Signer


def create_snapshot(wanted: Wanted, note: Callable[[int, int], None]) -> tuple[Path, Manifest]:
    """Make the file; its path and manifest. `note` is told how far it is: entries read, and of how many.

    Raises NotALog, NotASnapshot where this log does not go on from `since` or the file is there already, Damaged at the
    first offset that does not hold, Refusal, OSError.
    """
    require_log(wanted.data_dir)
    require_unlocked(wanted.data_dir)
    if not wanted.is_folder:
        _require_free(wanted.target)
    folder = wanted.target if wanted.is_folder else wanted.target.parent
    draft = folder / f".stigmem-snapshot.{os.getpid()}.partial"
    try:
        manifest = open_manifest(*_made(wanted, draft, note))
        path = wanted.target / name_of(manifest) if wanted.is_folder else wanted.target
        _require_free(path)
        draft.rename(path)
        sync(folder)
    finally:
        draft.unlink(missing_ok=True)
    return path, manifest


def name_of(manifest: Manifest) -> str:
    """A file name that sorts as the snapshots follow one another."""
    authority = re.sub(r"[^a-z0-9.-]", "_", manifest.node_id.removeprefix("stigmem://"))
    return f"{authority[:100]}-{manifest.size:012d}-from-{manifest.first:012d}.snapshot"


def _require_free(path: Path) -> None:
    if path.exists():
        raise NotASnapshot(f"{path} is there already, and a snapshot is never written over another file")


def _made(wanted: Wanted, draft: Path, note: Callable[[int, int], None]) -> tuple[bytes, bytes]:
    """Have the draft written by another process; manifest and signature as they stand in it."""
    receiver, sender = _FORK.Pipe(duplex=False)
    maker = _FORK.Process(target=_make, args=(wanted, draft, sender))
    maker.start()
    # Ours of the two ends: only when the maker's closes too does receiving end.
    sender.close()
    reached = 0
    try:
        with receiver, suppress(EOFError):
            while True:
                match receiver.recv():
                    case ("read", int(reached), int(size)):
                        note(reached, size)
                    case ("made", bytes(raw), bytes(signature)):
                        return raw, signature
                    case ("damaged", offset, words):
                        raise Damaged(offset, words)
                    case ("not done", words):
                        raise NotASnapshot(words)
        maker.join()
        how_it_ended(maker.exitcode)
    finally:
        maker.kill()
        maker.join()
    raise Damaged(reached, "the file is damaged: reading it ends soon after; `stigmem replay verify` says more")


def _make(wanted: Wanted, draft: Path, said: Connection) -> None:
    """In the process of its own: whatever it comes to goes through the pipe, trouble too."""
    end_as_others_say()
    os.nice(_NICENESS)
    try:
        require_format(wanted.data_dir / "log")
        log = open_log(wanted.data_dir / "log")
        try:
            said.send(("made", *_write(Reading(log, wanted.since), wanted, draft, said)))
        finally:
            log.close()
    except LogDamaged as refusal:
        damage = damage_of(refusal)
        said.send(("damaged", damage.offset, damage.words))
    except Damaged as damage:
        said.send(("damaged", damage.offset, damage.words))
    except (NotALog, NotASnapshot) as error:
        said.send(("not done", str(error)))
    except Refusal as refusal:
        said.send(("not done", refusal.detail))
    except BrokenPipeError:
        # Whoever asked for the file is gone, and so is the one who would have given it its name.
        draft.unlink(missing_ok=True)
    except OSError as error:
        said.send(("not done", f"{draft.parent}: {error.strerror}"))


def _write(reading: Reading, wanted: Wanted, draft: Path, said: Connection) -> tuple[bytes, bytes]:
    # Whoever may read the log may read this, and nobody else.
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        chunks = _write_chunks(reading, file, said)
        raw = encode_manifest(_manifest(reading, tuple(chunks), wanted))
        signature = sign_manifest(raw, wanted.signer)
        write_member(file, MANIFEST_NAME, raw)
        write_member(file, SIGNATURE_NAME, signature)
        write_end(file)
        file.flush()
        os.fsync(file.fileno())
    return raw, signature


def _write_chunks(reading: Reading, file: BinaryIO, said: Connection) -> list[Chunk]:
    chunks: list[Chunk] = []
    keys: list[KeyRow] = []
    first, packed, held = reading.first, [], 0
    for stored, items in reading.rows():
        packed.append(pack_rows(stored, items))
        if reading.mark is not None:
            keys += reading.fresh_keys(items)
        held += len(packed[-1])
        if (first + len(packed)) % _TOLD_EVERY == 0:
            said.send(("read", first + len(packed), reading.head.size))
        if held >= CHUNK_BYTES or first + len(packed) == reading.head.size:
            if len(chunks) == MAX_CHUNKS:
                raise NotASnapshot("the log is too long for one snapshot: continue an earlier one with --since")
            opening = b"" if reading.mark is None else pack_keys(keys)
            chunks.append(_write_chunk(file, len(chunks), first, packed, opening))
            first, packed, held, keys = first + len(packed), [], 0, []
            said.send(("read", first, reading.head.size))
    return chunks


def _write_chunk(file: BinaryIO, index: int, first: int, packed: list[bytes], opening: bytes) -> Chunk:
    raw = opening + b"".join(packed)
    if len(raw) > MAX_CHUNK_BYTES:
        raise NotASnapshot(f"offset {first + len(packed) - 1}: the entry is larger than a snapshot can hold")
    content = deflate(raw)
    write_member(file, chunk_name(index), content)
    # Bit by bit: one large flush at the end would have the node's own wait behind it.
    file.flush()
    os.fdatasync(file.fileno())
    return Chunk(
        first=first,
        entries=len(packed),
        bytes=len(content),
        raw_bytes=len(raw),
        sha256=sha256(content).hexdigest(),
    )


def _manifest(reading: Reading, chunks: tuple[Chunk, ...], wanted: Wanted) -> Manifest:
    signer = wanted.signer
    head, origin, checkpoint = reading.head, reading.origin(), None
    if signer.public_key == reading.current_key:
        said = Checkpoint(origin=origin, size=head.size, root=head.root)
        checkpoint = sign_checkpoint(said, signer)
    return Manifest(
        format=FORMAT if reading.mark is None else SEALED_FORMAT,
        node_id=reading.node_id,
        log_key=b64url_encode(reading.log_key),
        origin=origin,
        first=reading.first,
        size=head.size,
        root=head.root.hex(),
        checkpoint=checkpoint,
        continues=reading.continues,
        created_at=format_ms(time.time_ns() // 1_000_000),
        signed_by=signer.public_key_b64,
        keys=tuple(b64url_encode(key) for key in reading.keys),
        chunks=chunks,
        at_rest=UNSET
        if reading.mark is None
        else AtRest(key_file=reading.key_file(wanted.data_dir).decode(), mark=reading.mark),
    )
