"""What is typed as a fact's value on the command line."""

import pytest

from node.client import value_of
from node.commands.drafts import StatedValue


@pytest.mark.parametrize(
    ("value_type", "text", "v"),
    [
        ("string", "true", "true"),
        ("text", " 3 ", " 3 "),
        ("ref", "user:bob", "user:bob"),
        ("number", "3", 3),
        ("number", "-1.5e3", -1500.0),
        ("number", "9007199254740993", 9007199254740993),
        ("boolean", "true", True),
        ("boolean", "false", False),
    ],
)
def test_a_value_is_what_was_typed(value_type: str, text: str, v: object):
    typed = value_of(value_type, text)

    assert typed == StatedValue(type=value_type, v=v) and type(typed.v) is type(v)


@pytest.mark.parametrize(
    ("value_type", "text"),
    [
        *(("boolean", text) for text in ("yes", "True", "1", "", '"true"', "null")),
        *(("number", text) for text in ("abc", "nan", "Infinity", "1_000", "1e999", "", '"3"', "true")),
    ],
)
def test_what_is_no_number_and_no_boolean_is_refused_and_not_taken_for_another(value_type: str, text: str):
    with pytest.raises(ValueError, match=r"^--value: no (number|boolean) as JSON writes one$"):
        value_of(value_type, text)
