"""One spelling per name, and no spelling that reaches another's names or the node's own."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import InvalidField, InvalidUri
from node.uris import (
    RESERVED_SOURCE,
    authority_of,
    check_plain,
    check_visible,
    has_prefix,
    is_informal,
    is_normal,
    is_reserved_entity,
    is_reserved_relation,
    is_reserved_source,
    lies_under,
    normal_relation,
    normal_uri,
    origin_of,
)

HEX = "0123456789abcdefABCDEF"
TRICKY = st.text(st.sampled_from('aZ9-._~:/?#%[]@!&+ =|\\"é\u00a0\u3000\u212a\u017f2fFeE\x00\u200b'), max_size=20)
ESCAPES = st.builds("%{}{}".format, st.sampled_from(HEX), st.sampled_from(HEX))
SEGMENTS = st.lists(st.one_of(TRICKY, ESCAPES, st.text(max_size=5)), max_size=6).map("".join)
URIS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["stigmem://", "Stigmem://", " STIGMEM://", "stigmem:", ""]),
    st.sampled_from(["org-a.example", "ORG.example:8080", "a", ""]),
    st.lists(SEGMENTS, max_size=4).map(lambda segments: "".join(f"/{s}" for s in segments)),
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("stigmem://org-a.example", "stigmem://org-a.example"),
        ("stigmem://org-a.example/", "stigmem://org-a.example"),
        ("stigmem://org-a.example/person", "stigmem://org-a.example/person"),
        (" Stigmem://ORG-A.Example/Person/Alice/ ", "stigmem://org-a.example/person/alice"),
        ("stigmem://X.example/Ty/Id A", "stigmem://x.example/ty/id-a"),
        ("stigmem://a/t/x  \u00a0\u3000 y", "stigmem://a/t/x-y"),
        ("stigmem://a/t/%41%7e%2Db", "stigmem://a/t/a~-b"),
        ("stigmem://a/t/x%2fy", "stigmem://a/t/x%2Fy"),
        ("stigmem://a/t/x%3ay:z", "stigmem://a/t/x%3Ay:z"),
        ("stigmem://a/t/x%20y", "stigmem://a/t/x%20y"),
        ("stigmem://a/t/é", "stigmem://a/t/%C3%A9"),
        ("stigmem://a/t/É", "stigmem://a/t/%C3%89"),
        ("stigmem://a/t/%c3%a9", "stigmem://a/t/%C3%A9"),
        ("stigmem://a/t/x?q=1#f", "stigmem://a/t/x%3Fq=1%23f"),
        ('stigmem://a/t/[<">]\\^`{|}', "stigmem://a/t/%5B%3C%22%3E%5D%5C%5E%60%7B%7C%7D"),
        ("stigmem://a/t/!$&'()*+,;=:@", "stigmem://a/t/!$&'()*+,;=:@"),
        ("stigmem://a/t/%252e", "stigmem://a/t/%252e"),
        ("stigmem://a/t/...", "stigmem://a/t/..."),
        ("stigmem://a/t/..%2F..", "stigmem://a/t/..%2F.."),
        ("stigmem://a:8443/t", "stigmem://a:8443/t"),
        ("stigmem://a:65535", "stigmem://a:65535"),
        ("  user:Alice ", "user:Alice"),
        ("user:Alice Smith", "user:Alice Smith"),
        ("https://Org.example/", "https://Org.example/"),
        ("stigmem:node:0d5bbb0d", "stigmem:node:0d5bbb0d"),
    ],
)
def test_each_spelling_has_its_normal_form(text, normal):
    assert normal_uri(text) == normal
    assert is_normal(text) == (text == normal)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "stigmem://",
        "stigmem:///t/i",
        "stigmem://a//",
        "stigmem://a//i",
        "stigmem://a/t//",
        "stigmem://a/t//i",
        "stigmem://a/t/.",
        "stigmem://a/../b",
        "stigmem://a/t/%2e%2E",
        "stigmem://a/t/.%2e/x",
        "stigmem://a/t/%2E",
        "stigmem://a/t/%",
        "stigmem://a/t/%4",
        "stigmem://a/t/%zz",
        "stigmem://a/t/%4\u0661",
        "stigmem://.",
        "stigmem://..",
        "stigmem://a..b",
        "stigmem://.a",
        "stigmem://a.",
        "stigmem://-a",
        "stigmem://a-",
        "stigmem://a b",
        "stigmem://a_b",
        "stigmem://user@a/t",
        "stigmem://user:pw@a/t",
        "stigmem://a:/t",
        "stigmem://a:0",
        "stigmem://a:080",
        "stigmem://a:65536",
        "stigmem://a:123456",
        "stigmem://a:8x",
        "stigmem://a%2Fb/t",
        "stigmem://a?q",
        "stigmem://[::1]/t",
        "stigmem://\u212aa/t",
        "stigmem://\u0430.example/t",
        "stigmem://ünï.example",
        "stigmem://a\\b/t",
        "stigmem://a/t/x\n",
        "stigmem://a/t/\x00",
        "stigmem://a/t/\x7f",
        "stigmem://a/t/\x85",
        "stigmem://a/t/x\u202ey",
        "stigmem://a/t/\ud800",
        "user:al\u200bice",
        "user:alice\n",
        "\ufeffuser:alice",
    ],
    ids=ascii,
)
def test_what_is_no_name_is_an_invalid_uri_and_not_normal(text):
    with pytest.raises(InvalidUri):
        normal_uri(text)
    assert not is_normal(text)


@given(URIS)
def test_a_normal_form_is_normal_and_its_own_normal_form(text):
    try:
        normal = normal_uri(text)
    except InvalidUri:
        assert not is_normal(text)
        return
    assert is_normal(normal)
    assert normal_uri(normal) == normal
    assert is_normal(text) == (text == normal)
    assert is_informal(normal) == is_informal(text)


@given(URIS)
def test_the_normal_form_of_a_uri_is_lower_case_ascii_under_its_authority(text):
    try:
        normal = normal_uri(text)
    except InvalidUri:
        return
    if is_informal(normal):
        assert authority_of(normal) is None
    else:
        assert normal.isascii()
        assert lies_under(normal, authority_of(normal))
        assert not {"", ".", ".."} & set(normal.removeprefix("stigmem://").split("/"))


@pytest.mark.parametrize(
    ("text", "informal"),
    [
        ("user:alice", True),
        ("stigmem:x", True),
        ("stigmem:/a", True),
        ("", True),
        (" STIGMEM://a", False),
        ("stigmem://", False),
    ],
)
def test_a_name_is_informal_unless_it_begins_with_the_scheme(text, informal):
    assert is_informal(text) == informal


@pytest.mark.parametrize(
    ("x", "y", "lies"),
    [
        ("stigmem://a", "stigmem://a", True),
        ("stigmem://a/t/i", "stigmem://a", True),
        ("stigmem://a/t/i", "stigmem://a/t", True),
        ("stigmem://a/t/i/j", "stigmem://a/t/i", True),
        ("stigmem://a", "stigmem://a/t", False),
        ("stigmem://ab/t", "stigmem://a", False),
        ("stigmem://a.b/t", "stigmem://a", False),
        ("stigmem://a:80/t", "stigmem://a", False),
        ("stigmem://a/ti", "stigmem://a/t", False),
        ("stigmem://a/t", "stigmem://", False),
        ("stigmem://a/t", "stigmem:/", False),
        ("stigmem://a/t", "stigmem://a/", False),
        ("stigmem://a/../b/t", "stigmem://a", False),
        ("stigmem://A/t", "stigmem://A", False),
        ("agent:cto", "agent:cto", True),
        ("agent:cto/x", "agent:cto", False),
        ("stigmem:node:1", "stigmem:node:1", True),
        ("stigmem:node:1/x", "stigmem:node:1", False),
        ("https://a/x", "https://a", False),
    ],
)
def test_a_name_lies_under_itself_and_under_the_uris_that_begin_it(x, y, lies):
    assert lies_under(x, y) == lies


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ("stigmem://org-b.example:8080/agent/cto", "stigmem://org-b.example:8080"),
        ("stigmem://org-b.example", "stigmem://org-b.example"),
        ("agent:cto", "stigmem:node:1"),
    ],
)
def test_the_origin_is_the_authority_or_for_informal_sources_the_first_node(source, origin):
    assert origin_of(source, "stigmem:node:1") == origin


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("org:role", "org:role"),
        ("  Org:Role ", "org:Role"),
        ("role", "role"),
        (" Role ", "Role"),
        ("a:b:c", "a:b:c"),
    ],
)
def test_a_relation_is_trimmed_and_its_prefix_lower_cased(text, normal):
    assert normal_relation(text) == normal
    assert has_prefix(normal) == (":" in text)


@pytest.mark.parametrize(
    "text", ["", "  ", ":", ":x", " :x", "x:", "x: ", "a:b\n", "a:\x00", "a\u200b:b", "a:\u202eb"], ids=ascii
)
def test_a_relation_without_prefix_name_or_with_controls_is_refused(text):
    with pytest.raises(InvalidField, match="relation"):
        normal_relation(text)


@given(st.text(max_size=12))
def test_a_normal_relation_is_its_own_normal_form(text):
    try:
        normal = normal_relation(text)
    except InvalidField:
        return
    assert normal_relation(normal) == normal


@pytest.mark.parametrize("relation", ["stigmem:trusts", "Stigmem:x", " STIGMEM:x", "stigmem :x", "stigmem:"])
def test_no_spelling_of_the_nodes_own_relations_passes(relation):
    assert is_reserved_relation(relation)


@pytest.mark.parametrize("relation", ["org:role", "stigmem", "stigmem2:x", "x:stigmem:y"])
def test_other_relations_are_not_reserved(relation):
    assert not is_reserved_relation(relation)


@pytest.mark.parametrize(
    "entity", ["stigmem:log", "Stigmem:log", " stigmem:x", "stigmem:/a/b", "stigmem :x", "stigmem: //a"]
)
def test_no_spelling_of_the_nodes_own_entities_passes(entity):
    assert is_reserved_entity(entity)


@pytest.mark.parametrize("entity", ["stigmem://a/t/i", " Stigmem://A", "user:alice", "stigmem", "user:stigmem:x"])
def test_other_entities_are_not_reserved(entity):
    assert not is_reserved_entity(entity)


@pytest.mark.parametrize("source", [RESERVED_SOURCE, " System:Stigmem", "system: stigmem\u3000"])
def test_no_spelling_of_the_nodes_own_source_passes(source):
    assert is_reserved_source(source)
    assert not is_reserved_source("system:stigmem2")


CONTROLS = "\x00\x09\x0a\x1f\x7f\x80\x9f\u200b\u200f\u202a\u202e\u2060\u2064\u2066\u2069\ufeff"


INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180e\u2028\u2029\u2065\u206a\u3164\ufe0f\uffa0\ufff9\U0001d173\U000e0041"
)


@pytest.mark.parametrize("character", CONTROLS + INVISIBLE, ids=ascii)
def test_a_new_name_holds_no_character_that_shows_nothing(character):
    with pytest.raises(InvalidField, match="entity: control"):
        check_visible(f"user:ali{character}ce", "entity")


def test_whatever_unicode_counts_as_a_format_character_or_a_control_is_refused_in_a_new_name():
    """But for those that do show: marks around digits in Arabic, Syriac and Kaithi, and Egyptian joiners."""
    shown = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13456)}
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp") and code not in shown:
            with pytest.raises(InvalidField):
                check_visible(chr(code), "entity")


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_a_name_that_was_taken_in_before_is_still_one(character):
    assert is_normal(f"user:ali{character}ce")
    assert normal_uri(f"user:ali{character}ce") == f"user:ali{character}ce"


@pytest.mark.parametrize(
    "name", ["user:älice", "Δ:λ", "用户:爱丽丝", "user:😀", "user:a b", "stigmem://org-a.example/user/x"]
)
def test_a_name_in_any_script_is_visible(name):
    check_visible(name, "entity")


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
def test_a_plain_text_holds_no_control_or_invisible_character_and_the_refusal_names_its_field(character):
    with pytest.raises(InvalidField, match="slug"):
        check_plain(f"a{character}b", "slug")


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界 🎉", "a b\u00a0c"])
def test_a_text_that_can_be_seen_is_plain(text):
    check_plain(text, "name")
