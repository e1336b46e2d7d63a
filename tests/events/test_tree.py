"""The Merkle tree over the log, against RFC 6962 vectors and proofs checked by functions that share no code with it."""

import json
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from node.events.tree import (
    EMPTY_ROOT,
    Frontier,
    ReadNode,
    consistency_path,
    inclusion_path,
    leaf_hash,
    root_at,
    root_from_inclusion,
    roots_from_consistency,
    roots_from_last_leaf,
)
from tests.independent.merkle import check_consistency, check_inclusion, root_of
from tests.independent.rfc6962_vectors import PATH

VECTORS = json.loads(PATH.read_text())
SIZES = st.integers(min_value=1, max_value=300)


def _leaves(size: int) -> list[bytes]:
    return [leaf_hash(b"entry %d" % index) for index in range(size)]


def _tree(leaves: list[bytes]) -> tuple[Frontier, ReadNode]:
    frontier, nodes = Frontier(0, []), {}
    for leaf in leaves:
        nodes |= {(level, index): node for level, index, node in frontier.append(leaf)}
    return frontier, lambda level, index: nodes[level, index]


def test_leaf_hashes_are_those_of_the_vectors():
    assert [leaf_hash(bytes.fromhex(leaf)).hex() for leaf in VECTORS["leaves"]] == VECTORS["leaf_hashes"]


def test_roots_and_proofs_are_those_of_the_vectors():
    frontier, read = _tree([bytes.fromhex(leaf) for leaf in VECTORS["leaf_hashes"]])
    assert frontier.root().hex() == VECTORS["roots"][-1]
    assert [root_at(size, read).hex() for size in range(len(VECTORS["roots"]))] == VECTORS["roots"]
    for case in VECTORS["inclusion"]:
        assert [node.hex() for node in inclusion_path(case["index"], case["size"], read)] == case["hashes"]
    for case in VECTORS["consistency"]:
        assert [node.hex() for node in consistency_path(case["size1"], case["size2"], read)] == case["hashes"]


def test_the_empty_tree_has_the_hash_of_nothing_as_its_root():
    assert Frontier(0, []).root() == root_at(0, _tree([])[1]) == EMPTY_ROOT == sha256(b"").digest()


@given(size=SIZES)
def test_a_frontier_loaded_from_stored_nodes_goes_on_as_the_one_that_stored_them(size):
    leaves = _leaves(size + 1)
    frontier, read = _tree(leaves[:size])
    loaded = Frontier.load(size, read)
    assert loaded.root() == frontier.root() == root_of(leaves[:size])
    assert loaded.append(leaves[size]) == frontier.append(leaves[size])
    assert loaded.root() == root_of(leaves)


@given(size=SIZES, data=st.data())
def test_an_inclusion_path_leads_to_the_root_and_only_from_its_own_leaf_and_offset(size, data):
    offset = data.draw(st.integers(min_value=0, max_value=size - 1))
    leaves = _leaves(size)
    path, root = inclusion_path(offset, size, _tree(leaves)[1]), root_of(leaves)
    assert check_inclusion(leaves[offset], offset, size, path, root)
    assert root_from_inclusion(leaves[offset], offset, size, path) == root
    assert root_from_inclusion(leaf_hash(b"another"), offset, size, path) != root
    for other in {0, size - 1, (offset + 1) % size} - {offset}:
        assert root_from_inclusion(leaves[offset], other, size, path) != root


@given(size=SIZES, data=st.data())
def test_an_inclusion_path_of_another_length_leads_nowhere(size, data):
    offset = data.draw(st.integers(min_value=0, max_value=size - 1))
    leaves = _leaves(size)
    path = inclusion_path(offset, size, _tree(leaves)[1])
    root = root_of(leaves)
    assert root_from_inclusion(leaves[offset], offset, size, [*path, root]) != root
    if path:
        assert root_from_inclusion(leaves[offset], offset, size, path[:-1]) != root
    assert root_from_inclusion(leaves[offset], size, size, path) is None


@given(second=SIZES, data=st.data())
def test_a_consistency_path_proves_the_smaller_tree_a_prefix_and_no_other_tree(second, data):
    first = data.draw(st.integers(min_value=1, max_value=second))
    leaves = _leaves(second)
    path, root = consistency_path(first, second, _tree(leaves)[1]), root_of(leaves)
    assert check_consistency(first, root_of(leaves[:first]), second, root, path)
    forked = [*leaves[: first - 1], leaf_hash(b"forked")]
    assert not check_consistency(first, root_of(forked), second, root, path)


@given(second=st.integers(min_value=2, max_value=300), data=st.data())
def test_a_proof_leads_to_the_roots_of_the_log_it_is_of_and_so_shows_that_another_was_left(second, data):
    first = data.draw(st.integers(min_value=1, max_value=second - 1))
    leaves = _leaves(second)
    read, roots = _tree(leaves)[1], (root_of(leaves[:first]), root_of(leaves))
    path, last_leaf_path = consistency_path(first, second, read), inclusion_path(first - 1, second, read)
    forked = root_of([*leaves[: first - 1], leaf_hash(b"forked")])

    assert roots_from_consistency(first, second, path, roots[0]) == roots
    assert roots_from_last_leaf(first, second, last_leaf_path, leaves[first - 1]) == roots
    if first & (first - 1):
        assert roots_from_consistency(first, second, path, forked) == roots
    else:
        # The proof takes our word for the first root: only the way from its last leaf says what it was.
        assert roots_from_consistency(first, second, path, forked) != roots


@given(second=st.integers(min_value=2, max_value=300), data=st.data())
def test_a_consistency_path_of_another_length_leads_nowhere(second, data):
    first = data.draw(st.integers(min_value=1, max_value=second - 1))
    leaves = _leaves(second)
    path, root = consistency_path(first, second, _tree(leaves)[1]), root_of(leaves)
    roots = (root_of(leaves[:first]), root)

    assert roots_from_consistency(first, second, [*path, root], roots[0]) is None
    assert roots_from_consistency(first, second, path[:-1], roots[0]) != roots
    assert roots_from_consistency(second, first, path, roots[0]) is None
    assert roots_from_consistency(0, second, path, roots[0]) is None
