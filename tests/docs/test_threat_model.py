"""The threat model names tests: each is there, every attack has one, and none is named that does not run."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
_NAMED = re.compile(r"`([a-z_/0-9]+\.py)::([a-z_0-9]+)`")
SKIPPED = ("Attackers", "Assets", "What is not defended")


@cache
def names_in(file: str) -> frozenset[str]:
    path = ROOT / "tests" / file
    if not path.exists():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(map(_is_skip, node.decorator_list))
    )


def _is_skip(decorator: ast.expr) -> bool:
    return any(word in ast.unparse(decorator) for word in ("mark.skip", "mark.xfail", "mark.long"))


def missing_of(page: str) -> list[str]:
    return [f"{file}::{name}" for file, name in _NAMED.findall(page) if name not in names_in(file)]


def attacks() -> list[tuple[str, str]]:
    """(attack, tests) of every row of every table but that of attackers."""
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        if not section.startswith(SKIPPED):
            rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
            found += [(cells[0].strip(), cells[2]) for cells in rows[1:] if not cells[0].strip().startswith("---")]
    return found


def test_every_test_that_the_threat_model_names_is_there_and_runs():
    assert len(_NAMED.findall(PAGE)) > 60
    assert missing_of(PAGE) == []


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: attack[0][:60])
def test_every_attack_has_a_test_that_holds_it_off(attack: tuple[str, str]):
    assert _NAMED.search(attack[1])


def test_what_is_not_defended_is_said():
    section = PAGE.split("## What is not defended")[1]

    assert len(re.findall(r"^- \*\*", section, re.MULTILINE)) >= 10


def test_a_test_that_is_not_there_is_noticed():
    named = (
        "`test_keys.py::test_that_nobody_wrote`, `test_no_file.py::test_x`, `test_keys.py::test_wycheproof_is_whole`"
    )

    assert missing_of(named) == ["test_keys.py::test_that_nobody_wrote", "test_no_file.py::test_x"]
