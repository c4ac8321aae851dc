"""Random edits of a valid YAML: each gives the config that it says, or mistakes with true paths, and nothing else."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config import odd, sample
from torchtune.config import ConfigError, Mistake
from torchtune.config._interpolation import resolve_tree
from torchtune.config._tree import at, copied
from torchtune.config._unstructure import unstructure
from torchtune.config.model import render_yaml
from torchtune.runs import Recipe

Edit = tuple[str, float, Any]
"""What is done, where (a share of all places), and with what."""

SAMPLE = unstructure(sample.rich())
ODD = unstructure(odd.OddConfig(end=20))
ODD["outer"] |= {
    "parts": [{"_component_": "tests.config.odd.Inner", "size": 2}],
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
keys = st.sampled_from(["batch_size", "lr", "lrr", "_component_", "_base_", "x", "", "every", "size", "a.b"])
edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "remove", "rename", "add", "swap"]), st.floats(0, 0.999), values | keys
    ),
    min_size=1,
    max_size=3,
)


def holders(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every mapping or list with each of its keys or indices."""
    items = (
        list(tree.items())
        if isinstance(tree, dict)
        else list(enumerate(tree))
        if isinstance(tree, list)
        else []
    )
    for key, value in items:
        yield tree, key
        yield from holders(value)


def edited(tree: Any, done: list[Edit]) -> Any:
    """Return a copy of a tree with edits done to it."""
    tree = copied(tree)
    for what, where, given_value in done:
        every = list(holders(tree))
        if not every:
            return tree
        holder, key = every[int(where * len(every))]
        if what == "set":
            holder[key] = copied(given_value)
        elif what == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            name = given_value if isinstance(given_value, str) else f"{key}e"
            if what == "rename":
                holder[name] = holder.pop(key)
            elif what == "add":
                holder[name] = copied(given_value)
            else:
                other, place = every[int((1 - where) * 0.999 * len(every))]
                holder[key] = copied(other[place])
    return tree


def is_true(mistake: Mistake, tree: Any) -> bool:
    """Tell whether a mistake's path leads to a value of the tree, or to one that is missing beside those there."""
    for length in (len(mistake.path), len(mistake.path) - 1):
        try:
            at(tree, mistake.path[: max(length, 0)])
        except (LookupError, TypeError):
            continue
        return True
    return False


def same(built: Any, written: Any) -> bool:
    """Tell whether a config holds what was written: nothing lost, nothing changed but ints that are floats."""
    if isinstance(written, dict):
        return (
            isinstance(built, dict)
            and written.keys() <= built.keys()
            and all(same(built[key], value) for key, value in written.items())
        )
    if isinstance(written, list):
        return isinstance(built, list) and len(built) == len(written) and all(map(same, built, written))
    if isinstance(written, float) and math.isnan(written):
        return isinstance(built, float) and math.isnan(built)
    return built == written and (type(built) is type(written) or {type(built), type(written)} == {int, float})


@pytest.mark.parametrize(("recipe", "valid"), [(sample.main, SAMPLE), (odd.main, ODD)], ids=["sample", "odd"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(done=edits)
def test_edited_yaml_is_a_config_that_holds_it_or_mistakes_with_true_paths(
    recipe: Recipe[Any], valid: Any, tmp_path: Path, done: list[Edit]
) -> None:
    tree = edited(valid, done)
    file = tmp_path / "my.yaml"
    file.write_text(render_yaml(tree))
    layers = None
    try:
        layers = recipe.layers(str(file))
        config = layers.build()
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        assert same(unstructure(config), unstructure(layers.resolve()))
        return
    assert mistakes
    everything = tree if layers is None else resolve_tree(layers.tree)[0]
    for mistake in mistakes:
        assert mistake.location.kind == "default" or "my.yaml" in mistake.location.source
        assert mistake.location.source
        assert is_true(mistake, everything), mistake
