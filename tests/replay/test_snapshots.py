"""Snapshots: one file of the log, restored row by row as it was, and refused with nothing written where anything is off."""

import json
import random
import shutil
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import lmdb
import msgspec
import pytest

from node.canonical import canonical_json
from node.events.checkpoint import open_checkpoint
from node.events.facts import FactAsserted
from node.events.log import PARTIAL_FOLDER, Log
from node.folder_lock import FolderInUse, FolderLock
from node.keys import Signer, create_key_file
from replay.chain import Damaged
from replay.snapshots import container
from replay.snapshots.container import BLOCK, SnapshotFile, chunk_name, deflate, write_end, write_member
from replay.snapshots.create import Wanted, create_snapshot, name_of
from replay.snapshots.manifest import Manifest, NotASnapshot, NotTrusted, encode_manifest, sign_manifest
from replay.snapshots.restore import opened, restore, verify_snapshots
from replay.snapshots.rows import pack_rows, unpack_rows
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import NODE_ID, PEER_SIGNER, SIGNER, fact, samples
from tests.replay.folders import edit, files_of, flip, key, make_folder, replay, stigmem
from tests.replay.sound import sound_events, sound_fact

SIZE = len(sound_events())


@dataclass(frozen=True)
class Made:
    """A sound data folder and the full snapshot of it."""

    data_dir: Path
    file: Path
    manifest: Manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What no test changes."""
    data_dir = tmp_path_factory.mktemp("made") / "data"
    make_folder(data_dir)
    file, manifest = create(data_dir, data_dir.parent / "full.snapshot")
    return Made(data_dir, file, manifest)


def create(
    data_dir: Path, target: Path, *, since: int | Manifest = 0, signer: Signer = SIGNER
) -> tuple[Path, Manifest]:
    wanted = Wanted(data_dir=data_dir, target=target, is_folder=target.is_dir(), since=since, signer=signer)
    return create_snapshot(wanted, lambda read, size: None)


def restored(data_dir: Path, *files: Path, trusted: tuple[str, ...] = ()) -> Path:
    restore(data_dir, files, trusted, lambda line: None)
    return data_dir


def verified(*files: Path, trusted: tuple[str, ...] = ()) -> str:
    with opened(files) as snapshots:
        return str(verify_snapshots(snapshots, trusted, lambda line: None))


def rows_of(data_dir: Path) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of a log but those that say how it came here."""
    rows = {}
    with lmdb.open(str(data_dir / "log"), max_dbs=8, readonly=True, lock=False) as environment:
        for table in ("keys", "headers", "items", "tree"):
            db = environment.open_db(table.encode(), create=False)
            with environment.begin(db=db) as txn:
                rows[table] = list(txn.cursor())
    return rows


def grow(data_dir: Path, count: int, *, text: str = "later") -> None:
    log = Log(data_dir / "log")
    facts = [sound_fact(900 + number, value=_text(text)) for number in range(count)]
    last = log.read(log.head().size - 1, 1)[0]
    clock = fixed_clock(step_ms=7)
    clock.resume(last.hlc, last.at_ms)
    log.append(log.head().size, signed(map(_asserted, facts), log.head(), clock=clock))
    log.close()


def _asserted(asserted) -> FactAsserted:
    given = next(event for event in samples() if isinstance(event, FactAsserted))
    return msgspec.structs.replace(given, fact=asserted)


def _text(text: str):
    return msgspec.structs.replace(fact(1).value, type="string", v=text)


def forge(
    source: Path,
    target: Path,
    *,
    chunks: Callable[[list[bytes]], list[bytes]] = list,
    signer: Signer = SIGNER,
    **changed,
) -> Path:
    """A snapshot like `source` with other chunks (inflated), or other members of the manifest, signed again."""
    with SnapshotFile(source) as snapshot:
        manifest = snapshot.manifest
        raws = chunks([snapshot.chunk(index) for index in range(len(manifest.chunks))])
    stored = [deflate(raw) for raw in raws]
    named = tuple(
        msgspec.structs.replace(chunk, bytes=len(one), raw_bytes=len(raw), sha256=sha256(one).hexdigest())
        for chunk, raw, one in zip(manifest.chunks, raws, stored, strict=True)
    )
    members = {"chunks": named, "signed_by": signer.public_key_b64} | changed
    write_snapshot(target, stored, encode_manifest(msgspec.structs.replace(manifest, **members)), signer)
    return target


def write_snapshot(target: Path, stored: list[bytes], manifest: bytes, signer: Signer = SIGNER) -> None:
    with target.open("wb") as file:
        for index, one in enumerate(stored):
            write_member(file, chunk_name(index), one)
        write_member(file, container.MANIFEST_NAME, manifest)
        write_member(file, container.SIGNATURE_NAME, sign_manifest(manifest, signer))
        write_end(file)


# Made and restored.


def test_a_restored_log_is_the_log_row_by_row(made: Made, tmp_path: Path):
    new = restored(tmp_path / "new", made.file)

    assert rows_of(new) == rows_of(made.data_dir)
    assert sorted(path.name for path in new.iterdir()) == ["lock", "log"]
    assert replay("verify", new).code == 0


def test_a_log_of_several_chunks_comes_back_whole(tmp_path: Path):
    make_folder(tmp_path / "data")
    grow(tmp_path / "data", 160, text="x" * 60_000)

    file, manifest = create(tmp_path / "data", tmp_path / "big.snapshot")

    assert len(manifest.chunks) > 2
    assert rows_of(restored(tmp_path / "new", file)) == rows_of(tmp_path / "data")


def test_making_a_snapshot_changes_nothing_in_the_data_folder(made: Made, tmp_path: Path):
    before = files_of(made.data_dir)

    create(made.data_dir, tmp_path)

    after = files_of(made.data_dir)
    assert {path for path in after if before.get(path) != after[path]} <= {made.data_dir / "log" / "lock.mdb"}


def test_the_file_is_a_plain_tar_for_its_owner_alone_and_says_what_it_holds(made: Made):
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    with tarfile.open(made.file) as tar:
        assert tar.getnames() == [chunk_name(0), "manifest.json", "manifest.sig"]
        raw = tar.extractfile("manifest.json").read()
    said = json.loads(raw)
    assert canonical_json(said) == raw
    assert (said["node_id"], said["first"], said["size"], said["continues"]) == (NODE_ID, 0, SIZE, None)
    assert said["signed_by"] == said["log_key"] == SIGNER.public_key_b64
    checkpoint = open_checkpoint(said["checkpoint"], origin=said["origin"], public_key=SIGNER.public_key)
    assert (checkpoint.size, checkpoint.root.hex()) == (said["size"], said["root"])


def test_a_snapshot_is_never_written_over_a_file(made: Made, tmp_path: Path):
    (tmp_path / "taken").write_text("mine")

    with pytest.raises(NotASnapshot, match="there already"):
        create(made.data_dir, tmp_path / "taken")

    assert files_of(tmp_path) == {tmp_path / "taken": b"mine"}


# Damage.


def test_a_changed_byte_anywhere_in_the_file_is_noticed(made: Made, tmp_path: Path):
    content, spoilt = made.file.read_bytes(), tmp_path / "spoilt"
    positions = {*range(0, len(content), 29), *random.Random(3).sample(range(len(content)), 200)}
    missed = []
    for position in sorted(positions):
        changed = bytearray(content)
        changed[position] ^= 0x10
        spoilt.write_bytes(changed)
        try:
            with SnapshotFile(spoilt) as snapshot:
                snapshot.chunk(0)
            missed.append(position)
        except (Damaged, NotASnapshot):
            continue
    assert missed == []


def _parts(content: bytes) -> dict[str, int]:
    manifest = content.index(b"manifest.json")
    return {
        "the first header": 200,
        "a chunk": BLOCK + 700,
        "the padding of a chunk": manifest - 1,
        "the manifest's header": manifest + 100,
        "the manifest": manifest + BLOCK + 20,
        "the signature": content.index(b"manifest.sig") + BLOCK + 5,
        "the end": len(content) - 1,
    }


@pytest.mark.parametrize(
    "part",
    [
        *("the first header", "a chunk", "the padding of a chunk", "the manifest's header", "the manifest"),
        *("the signature", "the end"),
    ],
)
def test_a_file_changed_in_any_part_of_it_is_refused_and_nothing_is_written(made: Made, tmp_path: Path, part: str):
    content = bytearray(made.file.read_bytes())
    content[_parts(bytes(content))[part]] ^= 0x01
    (tmp_path / "spoilt").write_bytes(content)

    with pytest.raises((Damaged, NotASnapshot)):
        restored(tmp_path / "new", tmp_path / "spoilt")

    assert [path.name for path in tmp_path.iterdir()] == ["spoilt"]


@pytest.mark.parametrize("kept", [0, 1, BLOCK, BLOCK + 1000, -BLOCK, -1], ids=lambda kept: f"[:{kept}]")
def test_a_file_cut_short_is_refused_and_nothing_is_written(made: Made, tmp_path: Path, kept: int):
    (tmp_path / "cut").write_bytes(made.file.read_bytes()[:kept])

    with pytest.raises((Damaged, NotASnapshot)):
        restored(tmp_path / "new", tmp_path / "cut")

    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_a_file_with_something_behind_its_end_is_refused(made: Made, tmp_path: Path):
    (tmp_path / "longer").write_bytes(made.file.read_bytes() + b"\x00")

    with pytest.raises(Damaged, match="does not end"):
        verified(tmp_path / "longer")


def _edited(raws: list[bytes]) -> list[bytes]:
    """The text of one fact changed, everything else as it was."""
    rows = [
        (stored, [row.replace(b"org:head_count", b"org:head_cOunt") for row in items])
        for stored, items in unpack_rows(raws[0])
    ]
    return [b"".join(pack_rows(stored, items) for stored, items in rows)]


def test_an_event_edited_under_a_manifest_that_is_signed_anew_is_named_by_its_offset(made: Made, tmp_path: Path):
    log = Log(made.data_dir / "log", is_readonly=True)
    first = next(n for n in range(SIZE) if any(b"org:head_count" in item.content for item in log.read(n, 1)[0].items))
    log.close()

    with pytest.raises(Damaged) as found:
        restored(tmp_path / "new", forge(made.file, tmp_path / "edited", chunks=_edited))

    assert found.value.offset == first
    assert not (tmp_path / "new").exists()


def _without_the_last(raws: list[bytes]) -> list[bytes]:
    return [b"".join(pack_rows(*row) for row in list(unpack_rows(raws[0]))[:-1])]


def _swapped(raws: list[bytes]) -> list[bytes]:
    rows = list(unpack_rows(raws[0]))
    rows[4], rows[5] = rows[5], rows[4]
    return [b"".join(pack_rows(*row) for row in rows)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunks": _without_the_last}, "another number of entries"),
        ({"chunks": _swapped}, "do not lead to the root"),
        ({"chunks": lambda raws: [raws[0][:-1]]}, "ends within an entry"),
        ({"chunks": lambda raws: [raws[0] + b"\xff\xff\xff\xff"]}, "ends within an entry"),
        ({"chunks": lambda raws: [b"\x00\x00\x00\x00\xff\xff\xff\xff"]}, "more items than"),
        ({"root": "ab" * 32}, "do not lead to the root"),
        ({"node_id": "stigmem://org-c.example"}, "another node"),
        ({"origin": "org-a.example/stigmem-log/0000000000000000"}, "another name"),
        ({"checkpoint": "org-a.example/stigmem-log\n1\nAAAA\n\n"}, "checkpoint does not hold"),
        ({"size": SIZE + 1}, "do not add up"),
        ({"created_at": "yesterday"}, "RFC 3339"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_lies_is_found_out_though_its_signature_holds(made: Made, tmp_path: Path, change, words: str):
    with pytest.raises(Damaged, match=words):
        verified(forge(made.file, tmp_path / "forged", **change))


def test_a_chunk_that_inflates_beyond_what_is_declared_is_cut_off_there(made: Made, tmp_path: Path):
    bomb = deflate(bytes(512 << 20))
    [chunk] = made.manifest.chunks
    named = msgspec.structs.replace(chunk, bytes=len(bomb), raw_bytes=1000, sha256=sha256(bomb).hexdigest())
    manifest = encode_manifest(msgspec.structs.replace(made.manifest, chunks=(named,)))
    write_snapshot(tmp_path / "bomb", [bomb], manifest)

    with pytest.raises(Damaged, match="another size"):
        verified(tmp_path / "bomb")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "chunks/00000001.z", "chunks/../x"])
def test_a_member_of_another_name_is_refused_and_no_name_is_ever_used(made: Made, tmp_path: Path, name: str):
    with (tmp_path / "named").open("wb") as file:
        write_member(file, name, b"x")
        file.write(made.file.read_bytes())

    with pytest.raises((Damaged, NotASnapshot)):
        restored(tmp_path / "new", tmp_path / "named")

    assert [path.name for path in tmp_path.iterdir()] == ["named"]


@pytest.mark.parametrize("content", [b"", b"not a snapshot", bytes(4096), b"\x1f\x8b" + bytes(600)])
def test_a_file_that_is_no_snapshot_is_no_damage(tmp_path: Path, content: bytes):
    (tmp_path / "other").write_bytes(content)

    with pytest.raises(NotASnapshot, match="is no snapshot"):
        verified(tmp_path / "other")


# Whose word is taken.


def test_a_foreign_signer_is_taken_only_where_its_key_is_named(made: Made, tmp_path: Path):
    file, _ = create(made.data_dir, tmp_path / "foreign", signer=PEER_SIGNER)

    with pytest.raises(NotTrusted, match="--trust-key"):
        restored(tmp_path / "new", file)

    assert verified(file, trusted=(PEER_SIGNER.public_key_b64,)) == verified(file, trusted=(PEER_SIGNER.key_id,))
    assert verified(file, trusted=(PEER_SIGNER.key_id,)) == verified(made.file)


def test_where_a_key_is_named_the_log_s_own_is_not_enough(made: Made):
    with pytest.raises(NotTrusted, match="no key that was named"):
        verified(made.file, trusted=(PEER_SIGNER.key_id,))


def test_whoever_signs_for_a_log_of_their_own_in_another_s_name_gets_nowhere_with_it(made: Made, tmp_path: Path):
    forged = forge(
        made.file, tmp_path / "forged", signer=PEER_SIGNER, log_key=PEER_SIGNER.public_key_b64, checkpoint=None
    )

    with pytest.raises(Damaged, match="another node"):
        verified(forged)


# Continued.


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, list[Path]]:
    """A folder, and three snapshots that follow one another up to its head."""
    data_dir = tmp_path / "data"
    make_folder(data_dir)
    files, since = [], 0
    for number in range(3):
        file, since = create(data_dir, tmp_path / f"{number}.snapshot", since=since)
        files.append(file)
        if number < 2:
            grow(data_dir, 3)
    return data_dir, files


def test_a_full_snapshot_and_what_continues_it_make_the_log_in_whatever_order_they_are_named(chain, tmp_path: Path):
    data_dir, [full, second, third] = chain

    assert rows_of(restored(tmp_path / "new", third, full, second)) == rows_of(data_dir)


def test_a_chain_with_a_link_missing_is_refused(chain, tmp_path: Path):
    _, [full, second, third] = chain

    for files in ([second, third], [full, third], [third]):
        with pytest.raises(NotASnapshot, match="continue"):
            restored(tmp_path / "new", *files)

    assert not (tmp_path / "new").exists()


def test_a_log_that_went_another_way_continues_no_snapshot(made: Made, chain, tmp_path: Path):
    _, [_, second, third] = chain
    other = Path(shutil.copytree(made.data_dir, tmp_path / "other"))
    grow(other, 5, text="otherwise")
    with SnapshotFile(second) as snapshot:
        since = snapshot.manifest

    with pytest.raises(NotASnapshot, match="does not go on from that snapshot"):
        create(other, tmp_path / "tail", since=since)

    full, _ = create(other, tmp_path / "other.snapshot")
    with pytest.raises(NotASnapshot, match="does not continue"):
        verified(full, third)


def test_there_is_nothing_behind_the_head(made: Made, tmp_path: Path):
    for since in (SIZE, SIZE + 7, made.manifest):
        with pytest.raises(NotASnapshot, match="or behind"):
            create(made.data_dir, tmp_path, since=since)

    assert list(tmp_path.iterdir()) == []


# Where it is restored.


def test_a_folder_that_holds_anything_is_refused_and_left_as_it_is(made: Made, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(NotASnapshot, match=r"notes\.txt"):
        restored(tmp_path, made.file)

    assert files_of(tmp_path) == {tmp_path / "notes.txt": b"mine"}


def test_a_folder_with_the_node_s_key_and_an_interrupted_restore_counts_as_empty(made: Made, tmp_path: Path):
    create_key_file(tmp_path / "node.key", bytes(range(32)))
    (tmp_path / PARTIAL_FOLDER).mkdir()
    (tmp_path / PARTIAL_FOLDER / "data.mdb").write_text("half")

    assert rows_of(restored(tmp_path, made.file)) == rows_of(made.data_dir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "log", "node.key"]


def test_a_folder_that_a_node_holds_is_refused(made: Made, tmp_path: Path):
    with FolderLock(tmp_path / "lock"), pytest.raises(FolderInUse):
        restored(tmp_path, made.file)

    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


# A damaged log makes no snapshot.


@pytest.mark.parametrize(
    ("table", "change", "offset"),
    [
        ("headers", flip(key(9), 12), 9),
        ("headers", lambda txn: txn.delete(key(11)), 11),
        ("items", flip(key(7, 1), 25), 7),
        ("items", lambda txn: txn.delete(key(6, 0)), 6),
    ],
    ids=["a header is edited", "an entry is missing", "an item is edited", "an item is missing"],
)
def test_a_damaged_log_is_named_by_its_first_bad_offset_and_leaves_no_file(
    made: Made, tmp_path: Path, table: str, change, offset: int
):
    data_dir = Path(shutil.copytree(made.data_dir, tmp_path / "data"))
    edit(data_dir / "log", table, change)
    (tmp_path / "out").mkdir()

    with pytest.raises(Damaged) as found:
        create(data_dir, tmp_path / "out")

    assert found.value.offset == offset
    assert list((tmp_path / "out").iterdir()) == []


def test_a_log_file_cut_off_within_takes_nobody_down(made: Made, tmp_path: Path):
    data_dir = Path(shutil.copytree(made.data_dir, tmp_path / "data"))
    data_file = data_dir / "log" / "data.mdb"
    with data_file.open("r+b") as file:
        file.truncate(3 * 4096)
    create_key_file(data_dir / "node.key", bytes(range(32)))

    done = stigmem("snapshot", "create", "--data-dir", data_dir, "--dir", tmp_path)

    assert done.code in (2, 6), done
    assert not list(tmp_path.glob("*.snapshot"))


# The commands.


def test_the_commands_make_list_check_and_restore(made: Made, tmp_path: Path):
    data_dir = Path(shutil.copytree(made.data_dir, tmp_path / "data"))
    create_key_file(data_dir / "node.key", bytes(range(32)))
    folder = tmp_path / "kept"
    folder.mkdir()

    created = stigmem("snapshot", "create", "--data-dir", data_dir, "--dir", folder)
    [file] = folder.iterdir()
    (folder / "README").write_text("not one of them")
    listed = stigmem("snapshot", "list", folder, "--json")
    checked = stigmem("replay", "verify", "--snapshot", file)
    answered = json.loads(stigmem("replay", "verify", "--snapshot", file, "--json").stdout)
    restored_too = stigmem("snapshot", "restore", "--data-dir", tmp_path / "new", file)

    head = f"head {SIZE}:{made.manifest.root}"
    assert (created.code, created.stdout.splitlines()) == (0, [str(file), head])
    [row] = map(json.loads, listed.stdout.splitlines())
    assert (row["file"], row["state"], row["size"], row["is_log_key"]) == (file.name, "signed", SIZE, True)
    assert (checked.code, checked.last_line) == (0, head)
    assert (answered["result"], answered["root"]) == ("sound", made.manifest.root)
    assert (answered["snapshot"], answered["data_dir"]) == ([str(file)], None)
    assert (restored_too.code, restored_too.last_line) == (0, head)


def test_the_commands_tell_damage_from_what_could_not_be_done(made: Made, tmp_path: Path):
    content = bytearray(made.file.read_bytes())
    content[BLOCK + 40] ^= 0x01
    (tmp_path / "spoilt.snapshot").write_bytes(content)

    spoilt = stigmem("snapshot", "verify", tmp_path / "spoilt.snapshot", "--json")
    gone = stigmem("snapshot", "verify", tmp_path / "gone")
    keyless = stigmem("snapshot", "create", "--data-dir", made.data_dir, "--dir", tmp_path)

    said = json.loads(spoilt.stdout)
    assert (spoilt.code, said["state"], said["offset"]) == (6, "damaged", 0)
    assert [(done.code, len(done.stderr.splitlines())) for done in (gone, keyless)] == [(2, 1), (2, 1)]
    assert "node.key" in keyless.stderr


def test_a_node_s_name_never_leads_out_of_the_folder(made: Made):
    named = msgspec.structs.replace(made.manifest, node_id="stigmem://../../a\x00b\x1b[2J" + "x" * 400)

    assert name_of(named) == f".._.._a_b__2_{'x' * 87}-{SIZE:012d}-from-{0:012d}.snapshot"


def test_a_damaged_snapshot_is_listed_beside_the_sound_ones(made: Made, tmp_path: Path):
    shutil.copy(made.file, tmp_path / "a.snapshot")
    (tmp_path / "b.snapshot").write_bytes(made.file.read_bytes()[:-1])

    listed = stigmem("snapshot", "list", tmp_path)

    sound, damaged = listed.stdout.splitlines()[1:]
    assert (listed.code, sound.split()[:2], damaged.split()[0]) == (6, ["a.snapshot", f"0-{SIZE}"], "b.snapshot")
    assert "the log's own key" in sound and "does not end" in damaged
