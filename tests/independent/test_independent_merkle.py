"""The tree oracle against published numbers, and its checkers against every small tree and its spoilt proofs."""

import json
from itertools import combinations_with_replacement

import pytest

from tests.independent.merkle import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    root_of,
)
from tests.independent.rfc6962_vectors import LEAVES, PATH, build_vectors

# Published with Certificate Transparency's test data, for the first 0 to 8 of LEAVES.
PUBLISHED_ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
# Some of the proofs published with them, by their first hash bytes.
PUBLISHED_INCLUSION = {
    (2, 3): ["fac54203"],
    (1, 5): ["6e340b9c", "5f083f0a", "bc1a0643"],
    (5, 8): ["bc1a0643", "ca854ea1", "d37ee418"],
}
PUBLISHED_CONSISTENCY = {
    (1, 1): [],
    (1, 8): ["96a296d2", "5f083f0a", "6b47aaf2"],
    (2, 5): ["5f083f0a", "bc1a0643"],
    (6, 7): ["0ebc5d34", "b08693ec", "d37ee418"],
    (6, 8): ["0ebc5d34", "ca854ea1", "d37ee418"],
}
HASHES = [hash_leaf(bytes.fromhex(leaf)) for leaf in LEAVES]
MANY = [hash_leaf(b"%d" % i) for i in range(20)]
ROOTS = [root_of(MANY[:n]) for n in range(21)]
PAIRS = list(combinations_with_replacement(range(1, 21), 2))


@pytest.mark.parametrize("size", range(9))
def test_the_root_of_the_first_leaves_is_the_published_one(size):
    assert root_of(HASHES[:size]).hex() == PUBLISHED_ROOTS[size]


@pytest.mark.parametrize(("index", "size"), PUBLISHED_INCLUSION)
def test_the_inclusion_proof_is_the_published_one(index, size):
    proof = inclusion_proof(index, HASHES[:size])
    assert [h.hex()[:8] for h in proof] == PUBLISHED_INCLUSION[index, size]


@pytest.mark.parametrize(("size1", "size2"), PUBLISHED_CONSISTENCY)
def test_the_consistency_proof_is_the_published_one(size1, size2):
    proof = consistency_proof(size1, HASHES[:size2])
    assert [h.hex()[:8] for h in proof] == PUBLISHED_CONSISTENCY[size1, size2]


def test_the_vector_file_says_what_the_definition_says():
    assert json.loads(PATH.read_text()) == build_vectors()


def test_every_inclusion_proof_of_a_small_tree_is_accepted_at_its_own_index_and_no_other():
    for index, size in ((m - 1, n) for m, n in PAIRS):
        proof = inclusion_proof(index, MANY[:size])
        accepted = [
            (i, n) for i in range(20) for n in range(21) if check_inclusion(MANY[index], i, n, proof, ROOTS[size])
        ]
        assert (index, size) in accepted
        # A proof cannot tell sizes apart that give the leaf the same path; the root, signed with its size, does.
        assert {i for i, n in accepted if n == size} == {index}


def test_a_spoilt_inclusion_proof_is_refused():
    for index, size in ((m - 1, n) for m, n in PAIRS):
        proof, root = inclusion_proof(index, MANY[:size]), ROOTS[size]
        assert not check_inclusion(MANY[(index + 1) % 20], index, size, proof, root)
        assert not check_inclusion(MANY[index], index, size, proof, EMPTY_ROOT)
        for spoilt in _spoilt(proof, root):
            assert not check_inclusion(MANY[index], index, size, spoilt, root)


def test_every_consistency_proof_of_a_small_tree_is_accepted():
    for size1, size2 in PAIRS:
        proof = consistency_proof(size1, MANY[:size2])
        assert check_consistency(size1, ROOTS[size1], size2, ROOTS[size2], proof)


def test_a_spoilt_consistency_proof_is_refused():
    for size1, size2 in PAIRS:
        proof = consistency_proof(size1, MANY[:size2])
        assert not check_consistency(size1, EMPTY_ROOT, size2, ROOTS[size2], proof)
        assert not check_consistency(size1, ROOTS[size1], size2, EMPTY_ROOT, proof)
        for spoilt in _spoilt(proof, ROOTS[size2]):
            assert not check_consistency(size1, ROOTS[size1], size2, ROOTS[size2], spoilt)


def test_a_smaller_tree_is_never_consistent_with_a_larger_one_before_it():
    assert not check_consistency(8, ROOTS[8], 5, ROOTS[5], consistency_proof(5, MANY[:8]))


def test_the_empty_tree_is_consistent_with_any_other_and_needs_no_hashes():
    assert check_consistency(0, EMPTY_ROOT, 7, ROOTS[7], [])
    assert not check_consistency(0, ROOTS[1], 7, ROOTS[7], [])
    assert not check_consistency(0, EMPTY_ROOT, 7, ROOTS[7], [MANY[0]])


def _spoilt(proof: list[bytes], root: bytes) -> list[list[bytes]]:
    flipped = [[*proof[:i], bytes([h[0] ^ 4]) + h[1:], *proof[i + 1 :]] for i, h in enumerate(proof)]
    shortened = [proof[:-1], proof[1:]] if proof else []
    return [*flipped, *shortened, [*proof, root], [root, *proof], [*proof, bytes(32)], [bytes(32), *proof]]
