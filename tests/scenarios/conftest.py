"""Fixtures of the scenarios: nodes that are gone when the test is over, however it ended."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.link import Link
from tests.scenarios.nodes import STIGMEM, RunningNode
from tests.scenarios.organisations import Organisation, federate, start_together

MakeNode = Callable[..., RunningNode]
MakeOrganisation = Callable[..., Organisation]
MakeLink = Callable[[RunningNode], Link]


@pytest.fixture(scope="session", autouse=True)
def _stigmem_is_installed() -> None:
    if not STIGMEM.exists():
        pytest.exit(
            f"{STIGMEM} is missing: the scenarios run the installed command; `make test` installs it", returncode=3
        )


@pytest.fixture(scope="session")
def long_run() -> bool:
    """Whether `make test-long` asked for the larger numbers."""
    return bool(os.environ.get("STIGMEM_TEST_LONG"))


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """Makes nodes that are not started yet; each has its own folder unless one is named."""
    made: list[RunningNode] = []

    def make(name: str | None = None, **settings: str) -> RunningNode:
        made.append(RunningNode(tmp_path / (name or f"node-{len(made)}"), **settings))
        return made[-1]

    yield make
    for node in made:
        node.kill()


@pytest.fixture
def node(make_node: MakeNode) -> Iterator[RunningNode]:
    """A running node of org A, which has to end as it should."""
    running = make_node("node", ENTITY_URI="stigmem://org-a.example").start()
    yield running
    running.stop()


@pytest.fixture
def make_organisation(tmp_path: Path) -> Iterator[MakeOrganisation]:
    """Makes organisations whose nodes are not started yet."""
    made: list[Organisation] = []

    def make(name: str, **settings: str) -> Organisation:
        made.append(Organisation(tmp_path, name, **settings))
        return made[-1]

    yield make
    for organisation in made:
        organisation.node.kill()


@pytest.fixture
def make_link() -> Iterator[MakeLink]:
    """Makes links that pass: to a node, at a URL of their own."""
    made: list[Link] = []

    def make(node: RunningNode) -> Link:
        made.append(Link(node.port).start())
        return made[-1]

    yield make
    for link in made:
        link.close()


@pytest.fixture
def two_orgs(make_organisation: MakeOrganisation) -> tuple[Organisation, Organisation]:
    """Org A and org B after the tutorial's step 4: strict, active peers; A holds what it does not trust."""
    org_a, org_b = make_organisation("org-a"), make_organisation("org-b")
    start_together(org_a, org_b)
    federate(org_a, org_b)
    org_a.hold_inbound_facts()
    return org_a, org_b
