"""Encrypted logs: every item under its entity's key, bound to its place; and what erasing a key leaves behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from node.errors import LogDamaged
from node.events.entry import Entry
from node.events.event import Event
from node.events.facts import FactAsserted
from node.events.item_keys import AT_REST, ITEM_KEYS, ClearItems, LockedItems, LogLocked, SealedItems
from node.events.key_file import FileKey, new_file_key
from node.events.log import Log, WrongOffset
from node.events.log_check import LogCheck
from tests.at_rest import found_in
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import fact, samples
from tests.replay.folders import edit, key

ASSERTED = next(event for event in samples() if isinstance(event, FactAsserted))


@pytest.fixture
def file_key() -> FileKey:
    return new_file_key()


@pytest.fixture
def open_log(tmp_path: Path, file_key: FileKey) -> Iterator[Callable[..., Log]]:
    opened: list[Log] = []

    def open_again(*keys: FileKey) -> Log:
        while opened:
            opened.pop().close()
        opened.append(Log(tmp_path / "log", file_keys=keys or (file_key,)))
        return opened[-1]

    yield open_again
    while opened:
        opened.pop().close()


def about(entity: str, number: int) -> Event:
    return msgspec.structs.replace(ASSERTED, fact=fact(number, entity=f"stigmem://org-a.example/{entity}"))


def appended(log: Log, *events: Event) -> list[Entry]:
    clock = fixed_clock()
    entries = signed(events, log.head(), clock=clock)
    log.append(log.head().size, entries)
    return entries


def key_names(log: Log) -> set[bytes]:
    with log.store.begin() as txn:
        return {name for name, _ in txn.cursor(db=log.store.table(ITEM_KEYS))}


def test_every_kind_of_event_reads_back_and_none_of_its_texts_is_in_the_file(open_log, tmp_path):
    entries = appended(open_log(), *samples())

    log = open_log()

    assert log.read(0, len(entries)) == entries
    assert log.item(3, 1) == entries[3].items[1]
    contents = [item.content for entry in entries for item in entry.items]
    found = {
        text for content in contents if content.startswith(b"{") for text in texts_in(msgspec.json.decode(content))
    }
    # The headers lie in clear and tell of times, types and keys alone.
    headers = b"".join(entry.stored for entry in entries)
    hidden = {text for text in found if text.encode() not in headers}
    assert len(hidden) > 100
    assert found_in(tmp_path / "log", hidden) == []


def texts_in(value: object) -> Iterator[str]:
    """Texts long enough that none of them stands anywhere by chance."""
    match value:
        case str() if len(value) >= 8:
            yield value
        case dict():
            for member in value.values():
                yield from texts_in(member)
        case list():
            for member in value:
                yield from texts_in(member)


def test_the_tree_and_the_headers_are_those_of_the_same_log_in_clear(open_log, tmp_path):
    entries = appended(open_log(), *samples())
    clear = Log(tmp_path / "clear")
    clear.append(0, entries)

    log = open_log()

    assert log.head() == clear.head()
    assert list(log.all_stored()) == list(clear.all_stored())
    clear.close()


def test_an_entity_has_one_key_however_often_it_is_named(open_log):
    log = open_log()
    appended(log, about("x", 1), about("y", 2), about("x", 3))
    first = key_names(log)

    log = open_log()
    appended(log, about("y", 4), about("x", 5))

    assert len(first) == 3
    assert key_names(log) == first


def test_an_append_that_failed_leaves_no_key_behind_that_a_later_item_is_sealed_under(open_log):
    log = open_log()
    with pytest.raises(WrongOffset):
        log.append(7, signed([about("x", 1)], clock=fixed_clock()))
    log.lay(signed([about("x", 1)], clock=fixed_clock()))

    entries = appended(log, about("x", 1))

    assert open_log().read(0, 1) == entries


@pytest.mark.parametrize("change", ["swapped", "from another entity", "flipped", "of another form"])
def test_a_row_that_is_not_the_one_of_its_place_is_damage(open_log, tmp_path, change):
    log = open_log()
    appended(log, *(about("x", number) for number in range(4)))
    log.close()

    def spoil(txn):
        row = txn.get(key(2, 1))
        match change:
            case "swapped":
                txn.put(key(2, 1), txn.get(key(1, 1)))
            case "from another entity":
                txn.put(key(2, 1), row[:1] + bytes(16) + row[17:])
            case "flipped":
                txn.put(key(2, 1), row[:-1] + bytes([row[-1] ^ 1]))
            case "of another form":
                txn.put(key(2, 1), b"\x02" + row[1:])

    edit(tmp_path / "log", "items", spoil)

    with pytest.raises(LogDamaged, match=r"^log_damaged: offset 2: item 1 "):
        open_log().read(0, 4)


def test_without_its_key_a_log_is_counted_and_its_signatures_are_checked(open_log, file_key):
    entries = appended(open_log(), *samples())

    log = open_log(new_file_key())
    check = LogCheck(log.store, log.items)

    assert isinstance(log.items, LockedItems)
    with pytest.raises(LogLocked):
        log.read(0, 1)
    # The samples are signed by one key and do not begin with the node: all of them hold in themselves.
    found = check.check_own(0, len(entries))
    assert found.damage is None
    assert found.items == sum(len(entry.items) for entry in entries)
    assert check.check_rest(found.items) is None


def test_without_its_key_an_item_that_is_missing_is_damage_still(open_log, tmp_path):
    entries = appended(open_log(), *samples())
    open_log().close()
    edit(tmp_path / "log", "items", lambda txn: txn.delete(key(4, 1)))

    log = open_log(new_file_key())

    assert LogCheck(log.store, log.items).check_own(0, len(entries)).damage.offset == 4


def erase(log: Log, file_key: FileKey, *entities: str) -> None:
    items = log.items
    with log.store.begin(write=True) as txn:
        items.erase(txn, entities)
        items.rewrap(txn, file_key)
    items.use(file_key)


def test_after_a_change_of_file_keys_of_unknown_outcome_new_keys_lie_under_the_one_that_the_log_names(
    open_log,
):
    log, unknown, later = open_log(), new_file_key(), new_file_key()
    appended(log, about("x", 1))
    with log.store.begin(write=True) as txn:
        log.items.rewrap(txn, unknown)

    entries = appended(log, about("y", 2))

    with log.store.begin(write=True) as txn:
        log.items.rewrap(txn, later)
    assert open_log(later).item(1, 1) == entries[0].items[1]


def test_with_an_erased_key_its_items_open_no_more_and_all_others_do(open_log):
    log, later = open_log(), new_file_key()
    entries = appended(log, about("x", 1), about("y", 2), about("x", 3))

    erase(log, later, "stigmem://org-a.example/x")

    for reopen in (lambda: log, lambda: open_log(later)):
        reader = reopen()
        with pytest.raises(LogDamaged, match="the key that it is encrypted under is missing"):
            reader.item(0, 1)
        assert reader.item(1, 1) == entries[1].items[1]
        assert reader.item(0, 0) == entries[0].items[0]
    assert isinstance(open_log().items, LockedItems)


def test_an_entity_that_is_named_again_has_a_new_key_also_beside_a_reader_that_has_the_old_one(open_log):
    log = open_log()
    appended(log, about("x", 1))
    old_row = raw_item(log, 0)
    log.item(0, 1)
    erase(log, new_file_key(), "stigmem://org-a.example/x")
    with log.store.begin(write=True) as txn:
        txn.delete(key(0, 1), db=log.store.table("items"))

    entries = appended(log, about("x", 2))

    assert log.item(1, 1) == entries[0].items[1]
    with log.store.begin() as txn, pytest.raises(LogDamaged, match="cannot be decrypted"):
        log.items.open(txn, key(0, 1), old_row)


def raw_item(log: Log, offset: int) -> bytes:
    with log.store.begin() as txn:
        return txn.get(key(offset, 1), db=log.store.table("items"))


@pytest.mark.parametrize("table", [ITEM_KEYS, "meta"])
def test_a_key_table_that_was_changed_is_damage(open_log, tmp_path, table, file_key):
    appended(open_log(), about("x", 1))
    open_log().close()

    def spoil(txn):
        if table == "meta":
            txn.put(AT_REST, file_key.id[:-1])
        else:
            txn.put(bytes(16), bytes(72))

    edit(tmp_path / "log", table, spoil)

    with pytest.raises(LogDamaged):
        open_log()


def test_a_log_in_clear_stays_so_whatever_keys_are_at_hand(tmp_path, file_key):
    Log(tmp_path / "log").close()

    log = Log(tmp_path / "log", file_keys=(file_key,))

    assert isinstance(log.items, ClearItems)
    assert not isinstance(log.items, SealedItems)
    log.close()
