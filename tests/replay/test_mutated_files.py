"""A log's file with bits turned, pages swapped, holes, noise or its end cut off: whatever reads it says so in a line, or is right
all the same.

Always: no command ends by a signal, in a traceback, after 30 s or with more than its share of memory (`forked.py`), and the node
that starts on such a file serves no fact that is not as it was written.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from node.events.log_file import DATA_FILE
from node.keys import create_key_file
from tests.replay import damages
from tests.replay.test_damage_drill import all_commands, serving

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
CASES = 300 if LONG else 2
PAGE_BYTES = 4096
DAMAGED, NOT_DONE, SOUND = 6, 2, 0
TRUE_FACTS = {(fact.id, fact.entity, fact.value.v, fact.confidence) for fact in damages.true_facts()}

Mutate = Callable[[bytearray, random.Random], None]


def _somewhere(file: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(file))


def _page(file: bytearray, chance: random.Random) -> slice:
    start = chance.randrange(len(file) // PAGE_BYTES) * PAGE_BYTES
    return slice(start, start + PAGE_BYTES)


def _flip(file: bytearray, chance: random.Random) -> None:
    file[_somewhere(file, chance)] ^= 1 << chance.randrange(8)


def _flip_many(file: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(2, 200)):
        _flip(file, chance)


def _spoil_page_header(file: bytearray, chance: random.Random) -> None:
    at = _page(file, chance).start + 2 * chance.randrange(32)
    file[at : at + 2] = chance.choice((b"\x00\x00", b"\xff\xff", b"\x10\x00", b"\x00\x10", chance.randbytes(2)))


def _hole(file: bytearray, chance: random.Random) -> None:
    at, size = _somewhere(file, chance), chance.choice((1, 8, 512, PAGE_BYTES, 16 * PAGE_BYTES))
    file[at : at + size] = bytes(len(file[at : at + size]))


def _noise(file: bytearray, chance: random.Random) -> None:
    at, size = _somewhere(file, chance), chance.choice((4, 64, PAGE_BYTES))
    file[at : at + size] = chance.randbytes(len(file[at : at + size]))


def _cut(file: bytearray, chance: random.Random) -> None:
    del file[_somewhere(file, chance) :]


def _swap_pages(file: bytearray, chance: random.Random) -> None:
    one, other = _page(file, chance), _page(file, chance)
    file[one], file[other] = file[other], file[one]


def _old_page(file: bytearray, chance: random.Random) -> None:
    file[_page(file, chance)] = file[_page(file, chance)]


def _put_between(file: bytearray, chance: random.Random) -> None:
    at = _somewhere(file, chance)
    file[at:at] = chance.randbytes(chance.randint(1, 5000))


def _grow(file: bytearray, chance: random.Random) -> None:
    file += chance.randbytes(chance.randint(1, 9000))


MUTATIONS: tuple[Mutate, ...] = (
    *(_flip, _flip_many, _spoil_page_header, _hole, _noise),
    *(_cut, _swap_pages, _old_page, _put_between, _grow),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder with the node's key, that no test changes."""
    data_dir = tmp_path_factory.mktemp("sound") / "data"
    damages.write(data_dir, damages.sound_entries())
    create_key_file(data_dir / "node.key", bytes(range(32)))
    return data_dir


def _spoil(path: Path, chance: random.Random) -> list[str]:
    file, done = bytearray(path.read_bytes()), []
    for _ in range(chance.choice((1, 1, 2))):
        mutate = chance.choice(MUTATIONS)
        if len(file) > 2 * PAGE_BYTES:
            mutate(file, chance)
            done.append(mutate.__name__)
    path.write_bytes(file)
    return done


@pytest.mark.parametrize("seed", range(CASES))
def test_whatever_becomes_of_the_files_nothing_crashes_and_nothing_untrue_is_served(
    seed: int, sound: Path, tmp_path: Path
):
    chance, data_dir = random.Random(seed), Path(shutil.copytree(sound, tmp_path / "data"))
    done = _spoil(data_dir / "log" / DATA_FILE, chance)
    if chance.random() < 0.3:
        done += _spoil(next((data_dir / "views").glob("[0-9]*")) / DATA_FILE, chance)

    for command, found in all_commands(data_dir, tmp_path).items():
        assert found.code in (SOUND, NOT_DONE, DAMAGED), (done, command, found)
        assert found.code == SOUND or found.stderr.count("\n") == 1, (done, command, found)

    with serving(data_dir, tmp_path / "served") as node:
        node.ask("/readyz", "/v1/log/checkpoint", "/v1/facts?limit=100")
        ended = node.end()
    assert ended.code in (0, 1), (done, ended)
    assert node.answers or ended.stderr.count("\n") == 1, (done, ended)
    for path, answer in node.answers.items():
        assert answer.status in (200, 503), (done, path, answer)
    if node.answers and (facts := node.answers["/v1/facts?limit=100"]).status == 200:
        said = {(fact["id"], fact["entity"], fact["value"]["v"], fact["confidence"]) for fact in facts.json["facts"]}
        assert said <= TRUE_FACTS, done
