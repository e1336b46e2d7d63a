"""Who may import whom (ARCHITECTURE.md 'Who may import whom'): arrows go one way, and no import hides in a function."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules that know nothing but themselves: anybody may import them.
FOUNDATION = (
    "config",
    "errors",
    "clock",
    "keys",
    "canonical",
    "strict_json",
    "times",
    "uris",
    "folder_lock",
    "certificates",
    "key_files",
    "kept_secrets",
    "private_files",
    "durable",
    "at_rest",
)
FIRST_LINE = {"node", *(f"node.{name}" for name in FOUNDATION)}
EVENTS = FIRST_LINE | {"node.events"}
PROJECTIONS = EVENTS | {"node.projections"}
COMMANDS = PROJECTIONS | {"node.commands"}
RUNTIME = COMMANDS | {
    "node.kept_answers",
    "node.writer",
    "node.refusals",
    "node.quotas",
    "node.log_watch",
    "node.storage_watch",
    "node.runtime",
}
# What speaks to peers: beside each other on one line, below HTTP and the pulling side.
OUTGOING = RUNTIME | {"node.peer_client", "node.peer_checks", "node.peer_witness", "node.peer_tombstones"}
REPLAY = PROJECTIONS | {"replay"}

# By the longest prefix; each may also import what lies under its own prefix.
ALLOWED = {
    **{f"node.{name}": {"node.errors"} for name in FOUNDATION},
    "node.keys": {"node.durable"},
    "node.key_files": {"node.durable", "node.keys"},
    "node.kept_secrets": {"node.canonical", "node.keys"},
    "node.at_rest": {"node.config", "node.keys", "node.private_files"},
    "node": set(),
    "node.refusals": FIRST_LINE,
    "node.quotas": set(),
    "node.logging": FIRST_LINE,
    "node.tls": FIRST_LINE,
    "node.peer_client": FIRST_LINE | {"node.tls"},
    "node.backoff": set(),
    "node.events": EVENTS,
    "node.projections": PROJECTIONS,
    "node.commands": COMMANDS | {"node.refusals"},
    "node.log_watch": EVENTS,
    "node.storage_watch": PROJECTIONS | {"node.log_watch", "node.writer"},
    "node.kept_answers": EVENTS,
    "node.writer": COMMANDS | {"node.kept_answers", "node.refusals"},
    "node.erasing": COMMANDS | {"node.writer"},
    "node.runtime": RUNTIME | {"node.erasing"},
    "node.peer_checks": OUTGOING,
    "node.peer_witness": OUTGOING,
    "node.peer_tombstones": OUTGOING,
    "node.key_following": OUTGOING,
    "node.countersign": OUTGOING | {"node.key_following"},
    "node.push": OUTGOING | {"node.backoff"},
    "node.sync": OUTGOING | {"node.backoff", "node.key_following", "node.push"},
    "node.http": OUTGOING | {"node.countersign", "node.key_following", "node.tls"},
    "node.client": COMMANDS,
    "node.peer_console": {"node.client"},
    "node.console": {"node.client"},
    "node.key_console": {"node.client", "node.console"},
    "node.garden_console": EVENTS | {"node.client", "node.console"},
    "node.tombstone_console": EVENTS | {"node.client", "node.console"},
    "node.trust_console": EVENTS | {"node.client", "node.console"},
    "node.log_console": EVENTS | {"node.client", "replay.log_source"},
    "node.serve": OUTGOING | {"node.http", "node.sync", "node.tls"},
    "node.cli": OUTGOING
    | {
        "node.client",
        "node.garden_console",
        "node.tombstone_console",
        "node.trust_console",
        "node.key_console",
        "node.log_console",
        "node.peer_console",
        "node.serve",
        "node.tls",
        "node.logging",
        "replay",
    },
    "replay": REPLAY,
}

# What `stigmem serve` does not run it does not import either: its start is measured.
OFFLINE = re.compile(r"from (replay\.|node\.log_console )")

MODULES = sorted(path for folder in ("node", "replay") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rule_for(module: str) -> str:
    return max((rule for rule in ALLOWED if f"{module}.".startswith(f"{rule}.")), key=len)


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every import statement below a tree with each of our modules that it names."""
    for statement in ast.walk(tree):
        match statement:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(level=0, module=str(module), names=names):
                found = [f"{module}.{alias.name}" if is_package(module) else module for alias in names]
            case ast.ImportFrom():
                found = [f"{'.' * statement.level}{statement.module or ''}"]
            case _:
                continue
        yield from ((statement, name) for name in found if name.split(".")[0] in ("node", "replay", "tests", ""))


def named_by(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names):
            return [module, *(f"{module}.{alias.name}" for alias in names)]
        case _:
            return []


def is_package(module: str) -> bool:
    return (ROOT / Path(*module.split(".")) / "__init__.py").exists()


def is_covered(imported: str, allowed: set[str]) -> bool:
    """`node` alone stands for what its `__init__` defines, not for all that lies under it."""
    is_module = (ROOT / Path(*imported.split("."))).with_suffix(".py").exists() or is_package(imported)
    if imported.startswith("node.") and imported.count(".") == 1 and not is_module:
        return "node" in allowed
    return any(f"{imported}.".startswith(f"{name}.") for name in allowed if name != "node")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_line_in_the_table_allows(path: Path):
    module = name_of(path)
    rule = rule_for(module)
    allowed = ALLOWED[rule] | {rule}

    found = {name for _, name in imports(ast.parse(path.read_text()))}

    assert {name for name in found if not is_covered(name, allowed)} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_import_stands_at_the_top_of_its_module(path: Path):
    tree = ast.parse(path.read_text())
    nested = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in tree.body
    ]

    assert [line for line in nested if not (name_of(path) == "node.cli" and OFFLINE.match(line))] == []


def test_only_the_command_line_reads_the_environment_and_the_arguments():
    readers = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "sys.argv")
    }

    assert readers <= {"node.cli", "replay.cli", "replay.__main__"}


def test_nothing_that_folds_can_reach_a_clock_randomness_or_the_environment():
    ambient = {"asyncio", "datetime", "node.clock.Clock", "os", "random", "secrets", "socket", "time", "uuid"}
    folding = [path for path in MODULES if path.parent.name == "projections" and path.stem != "views"]

    found = {
        (name_of(path), name)
        for path in folding
        for node in ast.walk(ast.parse(path.read_text()))
        for name in named_by(node)
        if name in ambient
    }

    assert found == set()


def test_no_rule_speaks_of_a_module_that_is_gone():
    assert [rule for rule in ALLOWED if not any(f"{name_of(path)}.".startswith(f"{rule}.") for path in MODULES)] == []
