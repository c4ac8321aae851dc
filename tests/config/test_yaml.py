import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.config import ConfigError
from torchtune.config.model import inline_yaml, parse_yaml, render_yaml

# Examples from YAML 1.2.2, section 10.3.2, including values that YAML 1.1 parses differently.
SCALARS = {
    "1e-4": 1e-4,
    "1.": 1.0,
    ".5": 0.5,
    "-2E+5": -2e5,
    "12": 12,
    "0o17": 15,
    "0xFF": 255,
    "null": None,
    "~": None,
    "": None,
    "true": True,
    "FALSE": False,
    "no": "no",
    "on": "on",
    "y": "y",
    "12:30": "12:30",
    "1_000": "1_000",
    "2026-11-22": "2026-11-22",
    "'3'": "3",
    '"true"': "true",
    "!!str 3": "3",
    "!!float 3": 3.0,
    "-.inf": -math.inf,
    "${a.b}": "${a.b}",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    value_read = parse_yaml(f"a: {text}", "f.yaml").value["a"]
    assert value_read == value
    assert type(value_read) is type(value)


INLINE = {
    "1e-05": 1.0e-5,
    "[a, 'no', 1]": ["a", "no", 1],
    "{a: [1, 2], b: null}": {"a": [1, 2], "b": None},
    "a  b": "a  b",
    '"a\\nb"': "a\nb",
    "''": "",
}


@pytest.mark.parametrize(("text", "value"), INLINE.items())
def test_inline_value_is_read_back_unchanged(text: str, value: object) -> None:
    assert parse_yaml(f"a: {inline_yaml(value)}", "f.yaml").value["a"] == value
    assert "\n" not in inline_yaml(value)
    assert len(inline_yaml(value)) <= len(text) + 4


def test_every_key_and_item_has_its_line() -> None:
    lines = parse_yaml("a: 1\n# comment\nb:\n  c: [1, 2]\n  d:\n  - x\n  - y\n", "f.yaml").lines
    assert lines == {
        ("a",): 1,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "c", 0): 4,
        ("b", "c", 1): 4,
        ("b", "d"): 5,
    } | {
        ("b", "d", 0): 6,
        ("b", "d", 1): 7,
    }


def test_duplicate_key_is_reported_with_both_lines() -> None:
    (mistake,) = parse_yaml("a: 1\nb: 2\na: 3\n", "f.yaml").mistakes
    assert (str(mistake.location), mistake.path) == ("f.yaml:3", ("a",))
    assert "first on line 1" in mistake.message


@pytest.mark.parametrize(
    ("text", "origin", "part"),
    [
        ("a:\n\t- b", "f.yaml:2", "indent with spaces, not with a tab"),
        ("a: [1, 2", "f.yaml:1", "not valid YAML"),
        ("a: *nothing", "f.yaml:1", "undefined alias"),
        ("a: &x [*x]", "f.yaml", "contains an alias to itself"),
        ("a: b\0c", "f.yaml", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2", "not valid YAML"),
        ("x" * (4 * 2**20 + 1), "f.yaml", "the maximum is 4,194,304"),
    ],
)
def test_unparsable_text_is_reported_as_one_mistake(text: str, origin: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    (mistake,) = caught.value.mistakes
    assert str(mistake.location) == origin
    assert part in mistake.sentence


def test_alias_bomb_is_rejected() -> None:
    text = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    text += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    with pytest.raises(ConfigError, match="use fewer aliases"):
        parse_yaml(text, "f.yaml")


def test_python_tag_is_rejected() -> None:
    document = parse_yaml("a: !!python/object/apply:os.system ['true']", "f.yaml")
    assert "is not supported" in document.mistakes[0].message


def test_byte_order_mark_is_ignored() -> None:
    assert parse_yaml("\ufeffa: 1", "f.yaml").value == {"a": 1}


leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tree = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4)
)


@given(tree)
def test_rendered_value_is_read_back_unchanged_and_renders_the_same(value: Any) -> None:
    text = render_yaml({"a": value})
    value_read = parse_yaml(text, "f.yaml").value
    assert value_read == {"a": value}
    assert repr(value_read) == repr({"a": value})
    assert render_yaml(value_read) == text


@pytest.mark.parametrize("separator", [" ", ": ", " # "])
def test_long_text_stays_on_one_line(separator: str) -> None:
    path = separator.join(["/data/folder of rows"] * 20)
    text = render_yaml({"dataset": {"source": path}})
    assert len(text.splitlines()) == 2
    assert parse_yaml(text, "f.yaml").value == {"dataset": {"source": path}}
