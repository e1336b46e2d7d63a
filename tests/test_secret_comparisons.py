"""Secrets are compared in constant time alone: no `==`, `in` or `startswith` over anything that is named like one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*ROOT.glob("node/**/*.py"), *ROOT.glob("replay/**/*.py")])
_SECRET = re.compile(
    r"(^|_)(secrets?|passphrase|password|bearer|raw_key|admin_key|admin_hash|key_hash|api_key_hash|hmac|mac|seed|private_key|"
    r"signing_key|master_key|wrapping_key|token_json)(_|$)"
)
_TIMED = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
# What is named like a secret and gives nothing away: each with why.
HARMLESS = {
    "node/commands/peers.py: manifest.raw_key() != key": "a manifest's public key, as bytes",
    "node/commands/identity.py: manifest.raw_key() == context.signer.public_key": "likewise",
    "node/events/signed_note.py: (line.name, line.key_hash) == (key.name, key.hash())": "a note's hint at a public key",
    "node/events/key_file.py: wrap.source != secret.source": "where a key comes from: the word, not the key",
    "node/events/at_rest_folder.py: own != self._secret": "both are this node's, and nobody who waits brought either",
    "node/events/cosignature.py: (parsed.name, parsed.key_hash) != (name, key.hash())": "likewise",
}


def comparisons(source: str) -> Iterator[str]:
    """Each comparison, as it would be written, of something that is named like a secret with anything but a literal."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
                if isinstance(operator, _TIMED) and _is_of_secrets(left, right):
                    yield ast.unparse(node)
        elif _is_of_prefix(node) and _is_of_secrets(node.func.value, *node.args):
            yield ast.unparse(node)


def _is_of_prefix(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("swith")


def _is_of_secrets(*operands: ast.expr) -> bool:
    # Against a literal nothing is guessed: whether there is a key at all, or which form of credential it is.
    if any(isinstance(operand, ast.Constant) for operand in operands):
        return False
    return any(_SECRET.search(name) for operand in operands for name in _names_in(operand))


def _names_in(operand: ast.expr) -> Iterator[str]:
    for node in ast.walk(operand):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


@pytest.mark.parametrize(
    "source",
    [
        "if bearer == node.admin_key: pass",
        "if key_hash != row.key_hash: pass",
        "if given in self._secrets: pass",
        "ok = bearer.startswith(config.admin_key)",
        "if config.node_private_key_passphrase < text: pass",
        "match = [k for k in keys if k.raw_key == given]",
    ],
)
def test_a_comparison_that_takes_longer_the_more_agrees_is_found(source: str):
    assert list(comparisons(source))


@pytest.mark.parametrize(
    "source", ["if bearer is None: pass", 'if bearer.startswith("{"): pass', "if equal_secrets(key_hash, other): pass"]
)
def test_what_tells_nothing_of_a_secret_is_let_be(source: str):
    assert not list(comparisons(source))


def test_no_secret_is_compared_but_in_constant_time():
    found = {
        f"{path.relative_to(ROOT)}: {comparison}"
        for path in MODULES
        for comparison in comparisons(path.read_text(encoding="utf-8"))
    }

    assert found == set(HARMLESS)
