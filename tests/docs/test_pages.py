"""The pages name what the code has: every setting, route and error code, and no others."""

import re
import tomllib
from pathlib import Path

import pytest

from node import errors
from node.config import SETTINGS
from node.http.app import ROUTES

ROOT = Path(__file__).resolve().parents[2]


def test_the_settings_page_names_every_setting_and_no_other():
    named = set(re.findall(r"^\| `(STIGMEM_[A-Z_]+)` \|", _page("settings"), re.MULTILINE))

    assert named == {setting.variable for setting in SETTINGS}


def test_the_routes_page_names_every_route_and_no_other():
    named = set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", _page("routes"), re.MULTILINE))

    assert named == {(route.method, re.sub(r":[^}]*", "", route.path)) for route in ROUTES}


def test_the_errors_page_names_every_code_and_no_other():
    named = set(re.findall(r"^\| `([a-z_0-9]+)` \|", _page("errors"), re.MULTILINE))

    assert named == {refusal.code for refusal in _refusals()}


def test_the_dependencies_page_names_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[<>=]", wish)[0] for wish in wanted}

    assert {name for name in names if name not in _page("dependencies")} == set()
    assert all(">=" in wish for wish in wanted)


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
)
def test_a_page_links_to_nothing_that_is_not_there(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())

    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def _page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def _refusals() -> list[type[errors.Refusal]]:
    kinds = {kind for kind in errors.Refusal.__subclasses__() if "code" not in vars(kind)}
    named = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Refusal)]
    return [cls for cls in named if cls not in kinds and cls is not errors.Refusal]
