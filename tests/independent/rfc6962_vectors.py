"""The data in tests/vectors/rfc6962/: all trees and proofs over the eight leaves of Certificate Transparency's tests.

`python -m tests.independent.rfc6962_vectors` prints the file anew from the definition in merkle.py. That the roots are
the published ones is checked in test_independent_merkle.py against constants, not against this module.

Members: `leaves` (data, hex), `leaf_hashes`, `roots` (by tree size, 0 to 8), `inclusion` (index, size, hashes; for
0 <= index < size <= 8), `consistency` (size1, size2, hashes; for 1 <= size1 <= size2 <= 8). Hashes in hex.
"""

import json
from pathlib import Path

from tests.independent.merkle import consistency_proof, hash_leaf, inclusion_proof, root_of

PATH = Path(__file__).parents[1] / "vectors" / "rfc6962" / "vectors.json"
LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")


def build_vectors() -> dict[str, object]:
    hashes = [hash_leaf(bytes.fromhex(leaf)) for leaf in LEAVES]
    sizes = range(1, len(LEAVES) + 1)
    return {
        "leaves": list(LEAVES),
        "leaf_hashes": _hex(hashes),
        "roots": [root_of(hashes[:n]).hex() for n in (0, *sizes)],
        "inclusion": [
            {"index": m, "size": n, "hashes": _hex(inclusion_proof(m, hashes[:n]))} for n in sizes for m in range(n)
        ],
        "consistency": [
            {"size1": m, "size2": n, "hashes": _hex(consistency_proof(m, hashes[:n]))}
            for n in sizes
            for m in range(1, n + 1)
        ],
    }


def _hex(hashes: list[bytes]) -> list[str]:
    return [h.hex() for h in hashes]


if __name__ == "__main__":
    print(json.dumps(build_vectors(), indent=1))
