"""Every missing or circular reference is reported, regardless of other mistakes in the same value."""

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
    """Return the mistakes in a config without a config class."""
    try:
        Layers(None, tree).build()
    except ConfigError as error:
        return list(error.mistakes)
    return []


def references(value: Any) -> list[str]:
    """Return the names to which a value refers."""
    return re.findall(r"\$\{([^}]*)\}", value) if isinstance(value, str) else []


@given(TREES)
def test_mistakes_of_each_leaf_match_the_reference_graph(tree: dict[str, Any]) -> None:
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

    reported = mistakes(tree)
    reported_cycles = {dotted(m.path) for m in reported if "circular references" in m.message}
    assert reported_cycles <= circular
    for leaf in circular:
        same_cycle = {other for other in circular if other in reached[leaf] and leaf in reached[other]}
        assert reported_cycles & same_cycle, leaf
    for leaf, value in values.items():
        messages = [m.message for m in reported if dotted(m.path) == leaf]
        assert ("nope" in references(value)) == any("${nope} not found" in message for message in messages)
        for name in references(value):
            if value != f"${{{name}}}" and name in values and values[name] is None:
                assert f"${{{name}}} is null, so it cannot be interpolated into text" in messages


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"seed": None, "output_dir": "${seed}/${output_dir}"},
            {
                "output_dir: ${seed} is null, so it cannot be interpolated into text",
                "output_dir: circular references: output_dir -> output_dir",
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
                "folder: ${nope} not found",
                "folder: circular references: logger.log_dir -> folder -> logger.log_dir",
            },
        ),
        (
            {"extra": [None, "${extra.0}-${extra.1}"]},
            {
                "extra.1: ${extra.0} is null, so it cannot be interpolated into text",
                "extra.1: circular references: extra.1 -> extra.1",
            },
        ),
        (
            {"part": {"first": "${nope}", "second": "${whole}"}, "whole": "${part}"},
            {
                "part.first: ${nope} not found",
                "part.second: circular references: whole -> part -> whole",
            },
        ),
        (
            {"name": "${name}-${oops"},
            {
                "name: '${name}-${oops' contains a malformed reference",
                "name: circular references: name -> name",
            },
        ),
    ],
)
def test_circular_reference_is_reported_with_other_mistakes(tree: dict[str, Any], expected: set[str]) -> None:
    assert {f"{dotted(m.path)}: {m.message}" for m in mistakes(tree)} == expected


def test_failed_references_are_resolved_once() -> None:
    """Each value refers twice to the next, so that resolving failed references again would take 2**60 steps."""
    tree = {f"k{i}": f"${{k{i + 1}}}${{k{i + 1}}}" for i in range(60)} | {"k60": "${k0} ${nope}"}
    lines = sorted(f"{dotted(m.path)}: {m.message}"[:32] for m in mistakes(tree))
    assert lines == ["k0: circular references: k1 -> k", "k60: ${nope} not found"]
