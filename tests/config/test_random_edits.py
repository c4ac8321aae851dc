"""Randomly edited YAML files are loaded as the edited config, or cause mistakes with valid paths."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config import deep, sample
from torchtune.config import ConfigError, Mistake
from torchtune.config._interpolation import resolve_tree
from torchtune.config._tree import copy_tree, value_at
from torchtune.config._unstructure import unstructure
from torchtune.config.model import render_yaml
from torchtune.runs import Recipe

Edit = tuple[str, float, Any]
"""The operation, the position (as a fraction of all entries), and the new value."""

SAMPLE = unstructure(sample.rich())
DEEP = unstructure(deep.DeepConfig(end=20))
DEEP["outer"] |= {
    "parts": [{"_component_": "tests.config.deep.Inner", "size": 2}],
    "table": {"a": 1.0},
    "named": "n",
}

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        [
            "${output_dir}",
            "${nothing}",
            "${optimizer.lr}",
            "tests.config.sample.Sgd",
            "os.system",
            [],
            {},
            [1],
            {"a": 1},
            {"_component_": "tests.config.sample.Rows"},
            {"_component_": "os.system"},
            {"_component_": 3},
        ]
    ),
)
keys = st.sampled_from(
    ["batch_size", "lr", "lrr", "_component_", "_base_", "x", "", "interval", "size", "a.b"]
)
edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "remove", "rename", "add", "swap"]), st.floats(0, 0.999), values | keys
    ),
    min_size=1,
    max_size=3,
)


def containers(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every mapping and list together with each key or index."""
    items = (
        list(tree.items())
        if isinstance(tree, dict)
        else list(enumerate(tree))
        if isinstance(tree, list)
        else []
    )
    for key, value in items:
        yield tree, key
        yield from containers(value)


def apply_edits(tree: Any, edits_drawn: list[Edit]) -> Any:
    """Return a copy of a tree with edits applied."""
    tree = copy_tree(tree)
    for operation, position, new_value in edits_drawn:
        entries = list(containers(tree))
        if not entries:
            return tree
        holder, key = entries[int(position * len(entries))]
        if operation == "set":
            holder[key] = copy_tree(new_value)
        elif operation == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            name = new_value if isinstance(new_value, str) else f"{key}e"
            if operation == "rename":
                holder[name] = holder.pop(key)
            elif operation == "add":
                holder[name] = copy_tree(new_value)
            else:
                other, other_key = entries[int((1 - position) * 0.999 * len(entries))]
                holder[key] = copy_tree(other[other_key])
    return tree


def has_valid_path(mistake: Mistake, tree: Any) -> bool:
    """Return whether the path of a mistake, or its parent, exists in the tree."""
    for length in (len(mistake.path), len(mistake.path) - 1):
        try:
            value_at(tree, mistake.path[: max(length, 0)])
        except (LookupError, TypeError):
            continue
        return True
    return False


def is_equal(built: Any, expected: Any) -> bool:
    """Return whether a config contains the expected values, where an int may have become a float."""
    if isinstance(expected, dict):
        return (
            isinstance(built, dict)
            and expected.keys() <= built.keys()
            and all(is_equal(built[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return isinstance(built, list) and len(built) == len(expected) and all(map(is_equal, built, expected))
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(built, float) and math.isnan(built)
    return built == expected and (
        type(built) is type(expected) or {type(built), type(expected)} == {int, float}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "valid"), [(sample.main, SAMPLE), (deep.main, DEEP)], ids=["sample", "deep"]
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(edits_drawn=edits)
def test_edited_yaml_loads_or_causes_mistakes_with_valid_paths(
    recipe: Recipe[Any], valid: Any, tmp_path: Path, edits_drawn: list[Edit]
) -> None:
    tree = apply_edits(valid, edits_drawn)
    file = tmp_path / "my.yaml"
    file.write_text(render_yaml(tree))
    layers = None
    try:
        layers = recipe.layers(str(file))
        config = layers.build()
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        assert is_equal(unstructure(config), unstructure(layers.resolve()))
        return
    assert mistakes
    full_tree = tree if layers is None else resolve_tree(layers.tree)[0]
    for mistake in mistakes:
        assert mistake.location.kind == "default" or "my.yaml" in mistake.location.source
        assert mistake.location.source
        assert has_valid_path(mistake, full_tree), mistake
