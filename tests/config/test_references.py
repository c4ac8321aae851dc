"""References that lead nowhere or in a circle: every one is a mistake, whatever else is wrong with the same value."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.config import ConfigError, Mistake
from torchtune.config.model import Layers, dotted, leaves

REFERENCES = ("a", "b", "c", "s", "s.x", "s.y", "l", "l.0", "l.1", "nope")
PARTS = st.sampled_from(["-", *(f"${{{name}}}" for name in REFERENCES)])
VALUES = st.none() | st.just(7) | st.lists(PARTS, min_size=1, max_size=3).map("".join)
TREES = st.fixed_dictionaries(
    {
        "a": VALUES,
        "b": VALUES,
        "c": VALUES,
        "s": st.fixed_dictionaries({"x": VALUES, "y": VALUES}),
        "l": st.tuples(VALUES, st.fixed_dictionaries({"z": VALUES})).map(list),
    }
)


def mistakes(tree: dict[str, Any]) -> list[Mistake]:
    """Return the mistakes of a config without a class."""
    try:
        Layers(None, tree).build()
    except ConfigError as error:
        return list(error.mistakes)
    return []


def references(value: Any) -> list[str]:
    """Return the names in a value's references."""
    return re.findall(r"\$\{([^}]*)\}", value) if isinstance(value, str) else []


@given(TREES)
def test_each_leaf_has_the_mistakes_that_a_graph_of_the_references_shows(tree: dict[str, Any]) -> None:
    values = {dotted(path): value for path, value in leaves(tree)}
    next_leaves = {
        leaf: {
            other
            for name in references(value)
            for other in values
            if other == name or other.startswith(f"{name}.")
        }
        for leaf, value in values.items()
    }
    reached = {leaf: set(others) for leaf, others in next_leaves.items()}
    for _ in values:
        for others in reached.values():
            others.update(*(reached[other] for other in tuple(others)))
    circular = {leaf for leaf in values if leaf in reached[leaf]}

    found = mistakes(tree)
    in_circles = {dotted(m.path) for m in found if "lead in a circle" in m.message}
    assert in_circles <= circular
    for leaf in circular:
        same_circles = {other for other in circular if other in reached[leaf] and leaf in reached[other]}
        assert in_circles & same_circles, leaf
    for leaf, value in values.items():
        said = [m.message for m in found if dotted(m.path) == leaf]
        assert ("nope" in references(value)) == any("${nope} names nothing" in message for message in said)
        for name in references(value):
            if value != f"${{{name}}}" and name in values and values[name] is None:
                assert f"${{{name}}} is null, so it cannot be part of text" in said


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"seed": None, "output_dir": "${seed}/${output_dir}"},
            {
                "output_dir: ${seed} is null, so it cannot be part of text",
                "output_dir: references lead in a circle: output_dir -> output_dir",
            },
        ),
        (
            {
                "folder": "${nope}/${logger.log_dir}",
                "logger": {
                    "_component_": "torchtune.utils.metric_logging.DiskLogger",
                    "log_dir": "${folder}",
                },
            },
            {
                "folder: ${nope} names nothing",
                "folder: references lead in a circle: logger.log_dir -> folder -> logger.log_dir",
            },
        ),
        (
            {"extra": [None, "${extra.0}-${extra.1}"]},
            {
                "extra.1: ${extra.0} is null, so it cannot be part of text",
                "extra.1: references lead in a circle: extra.1 -> extra.1",
            },
        ),
        (
            {"part": {"first": "${nope}", "second": "${whole}"}, "whole": "${part}"},
            {
                "part.first: ${nope} names nothing",
                "part.second: references lead in a circle: whole -> part -> whole",
            },
        ),
        (
            {"name": "${name}-${oops"},
            {
                "name: '${name}-${oops' holds an unfinished reference",
                "name: references lead in a circle: name -> name",
            },
        ),
    ],
)
def test_circle_is_reported_whatever_else_is_wrong(tree: dict[str, Any], expected: set[str]) -> None:
    assert {f"{dotted(m.path)}: {m.message}" for m in mistakes(tree)} == expected


def test_references_that_fail_are_looked_up_once() -> None:
    """Each value refers twice to the next, so that walking again into what failed would take 2**60 steps."""
    tree = {f"k{i}": f"${{k{i + 1}}}${{k{i + 1}}}" for i in range(60)} | {"k60": "${k0} ${nope}"}
    found = sorted(f"{dotted(m.path)}: {m.message}"[:40] for m in mistakes(tree))
    assert found == ["k0: references lead in a circle: k1 -> k", "k60: ${nope} names nothing"]
