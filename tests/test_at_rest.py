"""A node and the key to its folder: which settings open it, and that no other leaves a trace."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import structs

from node.at_rest import AtRestError, node_secret, read_key_file
from node.commands.decision import Principal
from node.config import Config
from node.events.at_rest_folder import FolderKeys
from node.events.cipher import unseal
from node.events.item_keys import NAME_BYTES, WRAPPED_BYTES
from node.events.key_file import KEY_FILE, FileKey, add_secret, new_file_key, unlock
from node.key_files import KeyFile
from node.keys import Signer, create_key_file, load_signer
from node.runtime import Node
from tests.at_rest import found_in, state_of
from tests.clocks import fixed_clock
from tests.served import NODE_ID, SEED, Served, config_for, fact

Open = Callable[..., Awaitable[Node]]


def key_file(folder: Path, digit: str = "1", *, mode: int = 0o600, content: str | None = None) -> str:
    path = folder / f"{digit}.hex"
    path.write_text(digit * 64 + "\n" if content is None else content)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    plain = config_for(tmp_path / "data", at_rest_encryption=True, at_rest_key_file=key_file(tmp_path))
    return structs.replace(plain, federation_enabled=False)


@pytest.fixture
async def open_node(config: Config) -> AsyncIterator[Open]:
    opened: list[Node] = []

    async def open_with(signer: Signer | None = None, key_file: KeyFile | None = None, **changed: object) -> Node:
        changes, signer = structs.replace(config, **changed), signer or Signer.from_seed(SEED)
        node = await Node.open(config=changes, clock=fixed_clock(), signer=signer, key_file=key_file)
        opened.append(node)
        await node.begun()
        return node

    yield open_with
    for node in opened:
        await node.close()


@pytest.fixture
async def encrypted(config: Config, tmp_path: Path) -> Path:
    """The folder of a node that has said something, and is closed."""
    http = await Served(tmp_path / "data", fixed_clock(), Signer.from_seed(SEED), config).start()
    await http.write(entity=f"{NODE_ID}/planted/quoll")
    await http.closed()
    return tmp_path / "data"


async def test_it_is_founded_encrypted_and_opens_again(encrypted, open_node):
    node = await open_node()

    assert node.is_ready
    # What the harness folded anew beside it, in clear.
    shutil.rmtree(encrypted / "fresh-0")
    assert found_in(encrypted, ["quoll", NODE_ID]) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"at_rest_encryption": False, "at_rest_key_file": None}, "is encrypted: set STIGMEM_AT_REST_ENCRYPTION=on"),
        ({"at_rest_key_file": None}, "the node key lies in the data folder"),
        ({"at_rest_key_file": None, "node_private_key_file": "{data}/k"}, "the node key lies in the data folder"),
        ({"at_rest_key_file": "{data}/lock"}, "it lies in the data folder, beside what it would lock"),
        ({"at_rest_key_file": "/nowhere/at.all"}, "cannot be read"),
        ({"at_rest_key_file": "{other}"}, "under another key than the key file that is set"),
        ({"at_rest_key_file": "{open}"}, "3.hex is open to others than its owner"),
        ({"at_rest_key_file": "{short}"}, "does not hold 64 hex digits"),
        ({"at_rest_key_file": None, "at_rest_passphrase": "x"}, "under another key than the passphrase that is set"),
        ({"at_rest_key_file": None, "node_private_key_file": "/k"}, "under another key than the node key that is set"),
    ],
    ids=[
        "off",
        "none",
        "node key inside",
        "key inside",
        "no file",
        "another",
        "open",
        "short",
        "passphrase",
        "node key",
    ],
)
async def test_what_does_not_open_it_says_so_and_touches_nothing(encrypted, open_node, tmp_path, changed, words):
    places = {
        "data": str(encrypted),
        "other": key_file(tmp_path, "2"),
        "open": key_file(tmp_path, "3", mode=0o644),
        "short": key_file(tmp_path, "4", content="4" * 63),
    }
    given = {name: value.format(**places) if isinstance(value, str) else value for name, value in changed.items()}
    was = state_of(encrypted)

    with pytest.raises(AtRestError, match=words):
        await open_node(**given)

    assert state_of(encrypted) == was


async def test_what_is_derived_from_the_node_key_opens_it_with_that_node_key(open_node, tmp_path):
    named = {"at_rest_key_file": None, "node_private_key_file": str(tmp_path / "elsewhere.key")}
    node = await open_node(**named)
    await node.close()

    assert (await open_node(**named)).is_ready
    assert b'"source":"node_key"' in (tmp_path / "data" / KEY_FILE).read_bytes()


async def test_under_a_passphrase_it_opens_with_that_one_alone(open_node, tmp_path):
    await (await open_node(at_rest_key_file=None, at_rest_passphrase="open sesame")).close()
    was = state_of(tmp_path / "data")

    with pytest.raises(AtRestError):
        await open_node(at_rest_key_file=None, at_rest_passphrase="open, sesame")

    assert state_of(tmp_path / "data") == was
    assert (await open_node(at_rest_key_file=None, at_rest_passphrase="open sesame")).is_ready


async def test_a_folder_in_clear_is_not_opened_with_encryption_on(open_node, tmp_path):
    await (await open_node(at_rest_encryption=False, at_rest_key_file=None)).close()
    was = state_of(tmp_path / "data")

    with pytest.raises(AtRestError, match="`stigmem storage encrypt`"):
        await open_node()

    assert state_of(tmp_path / "data") == was


async def test_a_log_without_its_key_file_is_refused(encrypted, open_node):
    (encrypted / KEY_FILE).unlink()

    with pytest.raises(AtRestError, match=r"that file is missing"):
        await open_node()
    with pytest.raises(AtRestError, match="under another key than the one in"):
        await open_node(at_rest_encryption=False, at_rest_key_file=None)


async def test_every_read_is_what_it_is_in_clear(encrypted, config):
    http = await Served(encrypted, fixed_clock(), Signer.from_seed(SEED), config).start()
    asserted = await http.write(**fact(entity=f"{NODE_ID}/planted/second"))

    found = (await http.get("/v1/facts", entity=f"{NODE_ID}/planted/second")).expect(200)["facts"]

    assert [one["id"] for one in found] == [asserted["id"]]
    # And its live tables are those that the log folds to in clear.
    await http.closed()


async def test_a_rotation_of_the_node_key_takes_what_is_derived_from_it_along(open_node, tmp_path):
    old = create_key_file(tmp_path / "elsewhere.key", SEED)
    named = {"at_rest_key_file": None, "node_private_key_file": str(tmp_path / "elsewhere.key")}
    node = await open_node(old, KeyFile(tmp_path / "elsewhere.key", None), **named)

    await node.rotate_key(Principal(via="admin", entity=NODE_ID), is_compromised=True, since_ms=None)

    await node.close()
    new = load_signer(tmp_path / "elsewhere.key", None)
    assert new.key_id != old.key_id
    with pytest.raises(AtRestError):
        await open_node(old, **named)
    assert (await open_node(new, KeyFile(tmp_path / "elsewhere.key", None), **named)).is_ready


async def test_a_rotation_that_was_cut_off_before_the_log_opens_with_the_old_key_alone(open_node, tmp_path):
    old, next_one = create_key_file(tmp_path / "elsewhere.key", SEED), Signer.from_seed(SEED[::-1])
    named = {"at_rest_key_file": None, "node_private_key_file": str(tmp_path / "elsewhere.key")}
    await (await open_node(old, **named)).close()
    add_secret(tmp_path / "data", node_secret(old), node_secret(next_one))

    assert (await open_node(old, **named)).is_ready

    with pytest.raises(AtRestError):
        unlock(tmp_path / "data", node_secret(next_one))


async def test_what_was_erased_opens_no_more_with_the_key_file_of_before_and_all_else_does(config, tmp_path):
    http = await Served(tmp_path / "data", fixed_clock(), Signer.from_seed(SEED), config).start()
    gone, kept = f"{NODE_ID}/planted/quoll", f"{NODE_ID}/planted/numbat"
    await http.write(entity=gone)
    await http.write(entity=kept)
    secret = read_key_file(Path(config.at_rest_key_file))
    (before,) = unlock(tmp_path / "data", secret)
    name = http.node.log.items.name_of(gone)
    assert opened_under(before, name, tmp_path / "data" / "log")

    (await http.post("/v1/tombstones", {"entity_uri": gone, "scope": "*", "reason": "asked for"})).expect(201)
    await http.node.erase()

    assert (await http.get("/v1/facts", entity=gone)).expect(200)["facts"] == []
    assert len((await http.get("/v1/facts", entity=kept)).expect(200)["facts"]) == 1
    await http.write(entity=kept, relation="memory:later")
    (after,) = unlock(tmp_path / "data", secret)
    assert after.id != before.id
    assert not opened_under(before, name, tmp_path / "data" / "log")
    assert not opened_under(after, name, tmp_path / "data" / "log")
    await http.restart()
    assert len((await http.get("/v1/facts", entity=kept)).expect(200)["facts"]) == 2
    await http.closed()


async def test_a_key_that_the_log_names_is_not_written_over_where_the_disk_kept_it_from_its_place(open_node, tmp_path):
    signer, data = Signer.from_seed(SEED), tmp_path / "data"
    node = await open_node(at_rest_key_file=None, node_private_key_file=str(tmp_path / "elsewhere.key"))
    keys = FolderKeys(data, node_secret(signer), new_file_key(), node.log.file_key_id)
    # What an erasure has done when its last step, the renaming of the key file, fails.
    node.log.erase((), (), keys.prepare())

    again = keys.prepare()

    assert {key.id for key in unlock(data, node_secret(signer))} == {node.log.file_key_id(), again.id}
    node.log.erase((), (), again)
    successor = Signer.from_seed(bytes(32))
    keys.admit(successor)
    assert [key.id for key in unlock(data, node_secret(successor))] == [again.id]


def opened_under(file_key: FileKey, name: bytes, log_dir: Path) -> bool:
    """Whether the key of that name is anywhere in the file, in a free page too, wrapped under this file key."""
    content = (log_dir / "data.mdb").read_bytes()
    for start in range(len(content) - WRAPPED_BYTES):
        # A row lies behind its name; LMDB leaves names where it deleted rows.
        if content[start - NAME_BYTES : start] != name and content[start : start + NAME_BYTES] != name:
            continue
        for at in range(start, start + 2 * NAME_BYTES):
            with suppress(ValueError):
                unseal(file_key.items, b"stigmem-item-key/v1" + name, content[at : at + WRAPPED_BYTES])
                return True
    return False
