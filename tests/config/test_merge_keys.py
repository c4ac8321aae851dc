"""Merge keys are parsed as in PyYAML, with the line of every value; `x-` keys may contain anchors."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.config.sample import main as sample_recipe
from torchtune.config import ConfigError
from torchtune.config.model import Layers, Location, leaves, parse_yaml
from torchtune.runs import config_layers


class Writer:
    """Writes mappings that merge previous mappings; all numbers are unique."""

    def __init__(self, draw: st.DrawFn, merges: list[str]) -> None:
        self.draw, self.merges = draw, merges
        self.numbers = iter(range(1000, 9999))
        self.anchors: list[str] = []
        self.lines: list[str] = []

    def mapping(self, indent: str) -> None:
        keys = self.draw(st.lists(st.sampled_from(["ka", "kb", "kc", "kd"]), unique=True, max_size=4))
        merge_first = self.draw(st.booleans())
        if merge_first:
            self.merge(indent)
        for key in keys or ["ke"]:
            self.entry(f"{indent}{key}:", indent)
        if not merge_first:
            self.merge(indent)

    def entry(self, start: str, indent: str) -> None:
        kind = self.draw(st.sampled_from(["number", "number", "mapping", "alias"]))
        if kind == "mapping" and len(indent) < 6:
            self.lines.append(start)
            self.mapping(f"{indent}  ")
        elif kind == "alias" and self.anchors:
            self.lines.append(f"{start} *{self.anchor()}")
        else:
            self.lines.append(f"{start} {next(self.numbers)}")

    def merge(self, indent: str) -> None:
        kind = self.draw(st.sampled_from(["none", *self.merges]))
        if kind == "inline" and len(indent) < 6:
            self.lines.append(f"{indent}<<:")
            self.mapping(f"{indent}  ")
        elif kind == "one" and self.anchors:
            self.lines.append(f"{indent}<<: *{self.anchor()}")
        elif kind == "list" and self.anchors:
            aliases = [f"*{self.anchor()}" for _ in range(self.draw(st.integers(0, 3)))]
            self.lines.append(f"{indent}<<: [{', '.join(aliases)}]")

    def anchor(self) -> str:
        return self.draw(st.sampled_from(self.anchors))


@st.composite
def documents(draw: st.DrawFn, merges: list[str]) -> str:
    """Draw YAML text with anchored mappings."""
    writer = Writer(draw, merges)
    for i in range(draw(st.integers(1, 4))):
        writer.lines.append(f"key{i}: &name{i}")
        writer.mapping("  ")
        writer.anchors.append(f"name{i}")
    return "\n".join(writer.lines)


@pytest.mark.slow
@given(documents(["one", "inline"]))
def test_merge_keys_match_pyyaml(text: str) -> None:
    assert parse_yaml(text, "f.yaml").value == yaml.safe_load(text)


class WithoutMerges(yaml.SafeLoader):
    """A loader that reads `<<` as an ordinary key."""

    yaml_implicit_resolvers = {"<": []}  # noqa: RUF012 -- PyYAML's attribute, keyed by first letter


def merge_value(value: Any) -> Any:
    """Merge parsed values as specified in https://yaml.org/type/merge.html."""
    if not isinstance(value, dict):
        return int(value)
    sources = value.get("<<", [])
    result = {key: merge_value(item) for key, item in value.items() if key != "<<"}
    for source in sources if isinstance(sources, list) else [sources]:
        result = merge_value(source) | result
    return result


@given(documents(["one", "inline", "list", "list"]))
def test_merge_keys_follow_the_specification_and_keep_lines(text: str) -> None:
    """The first mapping in a list takes precedence in the specification, but the last one in PyYAML 6.0.4."""
    document = parse_yaml(text, "f.yaml")
    assert document.mistakes == []
    assert document.value == merge_value(yaml.load(text, WithoutMerges))
    lines = text.splitlines()
    for path, value in leaves(document.value):
        assert lines[document.lines[path] - 1].endswith(f"{path[-1]}: {value}")


def test_example_from_the_specification_has_four_equal_mappings() -> None:
    """The example is from https://yaml.org/type/merge.html."""
    text = """
- &CENTER { x: 1, y: 2 }
- &LEFT { x: 0, y: 2 }
- &BIG { r: 10 }
- &SMALL { r: 1 }
- { x: 1, y: 2, r: 10, label: center/big }
- { <<: *CENTER, r: 10, label: center/big }
- { <<: [*CENTER, *BIG], label: center/big }
- { <<: [*BIG, *LEFT, *SMALL], x: 1, label: center/big }
"""
    *_, explicit, merged, merged_list, overridden = parse_yaml(text, "f.yaml").value
    assert explicit == merged == merged_list == overridden


INVALID = {
    "a: &a\n  <<: *a\n  x: 1": "f.yaml:2: a.<<: a mapping cannot be merged into itself",
    "a: &a\n  x: &x\n    <<: *a": "f.yaml: nested too deeply, or contains an alias to itself",
    "a:\n  <<: base": "f.yaml:2: a.<<: expected mappings to merge, got 'base'; use *name, or [*name, *other]",
    "s: &s [1]\na:\n  <<: *s": "f.yaml:3: a.<<: expected mappings to merge, got '1'; use *name, or [*name, *other]",
    "a:\n  <<: [[]]": "f.yaml:2: a.<<: expected mappings to merge, got a list; use *name, or [*name, *other]",
    "a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a": (
        "f.yaml:4: b.<<: duplicate key '<<', first on line 3; merge a list: <<: [*a, *b]"
    ),
    "a:\n  <<: !!python/dict {x: 1}": (
        "f.yaml:2: a.<<: the tag 'tag:yaml.org,2002:python/dict' is not supported;"
        " use plain values and _component_"
    ),
    "a: &a\n  x: 1\n  x: 2\nb:\n  <<: *a\nc: *a": "f.yaml:3: a.x: duplicate key 'x', first on line 2; keep one of them",
}


@pytest.mark.parametrize("text", INVALID)
def test_invalid_merge_is_reported_as_one_mistake_with_its_line(text: str) -> None:
    try:
        mistakes = parse_yaml(text, "f.yaml").mistakes
    except ConfigError as error:
        mistakes = list(error.mistakes)
    assert list(map(str, mistakes)) == [INVALID[text]]


@pytest.mark.parametrize("first", ["{}", "{x: 1}"])
def test_repeated_merges_are_rejected_as_an_alias_bomb(first: str) -> None:
    text = f"a0: &a0 {first}\n"
    text += "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))
    with pytest.raises(ConfigError, match="use fewer aliases"):
        parse_yaml(text, "f.yaml")


def test_quoted_merge_key_is_an_ordinary_key() -> None:
    assert parse_yaml('"<<": {a: 1}', "f.yaml").value == {"<<": {"a": 1}}


CONFIG = """\
x-optimizers:
  slow: &slow
    lr: 0.1
    momentum: 0.5
x-name: &name runs/merged
output_dir: *name
optimizer:
  _component_: tests.config.sample.Sgd
  <<: *slow
  momentum: 0.9
"""


def sample_layers(folder: Path, text: str, *, base: str | None = None) -> Layers:
    """Return the layers of YAML text, optionally with a base."""
    (folder / "my.yaml").write_text(text)
    if base is not None:
        (folder / "base.yaml").write_text(base)
    return config_layers(str(folder / "my.yaml"), sample_recipe.config_class)


def file_and_line(origin: Location) -> str:
    return str(origin).rpartition("/")[2]


def test_helper_keys_are_not_fields_and_origins_are_the_lines_of_the_values(tmp_path: Path) -> None:
    layers = sample_layers(tmp_path, CONFIG)
    cfg: Any = layers.build()
    assert cfg.output_dir == "runs/merged"
    assert cfg.optimizer.keywords == {"lr": 0.1, "momentum": 0.9}
    assert not [name for name in layers.tree if name.startswith("x-")]
    origins = {path: file_and_line(layers.origin(path)) for path in layers.origins}
    assert origins["optimizer", "lr"] == "my.yaml:3"
    assert origins["optimizer", "momentum"] == "my.yaml:10"
    assert origins["optimizer", "_component_"] == "my.yaml:8"


def test_mistake_in_a_merged_value_is_located_where_the_value_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        sample_layers(
            tmp_path, CONFIG.replace("lr: 0.1", "lr: fast").replace("momentum: 0.5", "mass: 1")
        ).build()
    assert [(file_and_line(m.location), m.path) for m in caught.value.mistakes] == [
        ("my.yaml:3", ("optimizer", "lr")),
        ("my.yaml:4", ("optimizer", "mass")),
    ]


def test_merge_keys_of_a_base_file_apply_and_its_anchors_are_not_visible(tmp_path: Path) -> None:
    text = "_base_: base.yaml\nx-more: &more {momentum: 0.7}\noptimizer:\n  <<: *more\n"
    cfg: Any = sample_layers(tmp_path, text, base=CONFIG).build()
    assert cfg.optimizer.keywords == {"lr": 0.1, "momentum": 0.7}
    with pytest.raises(ConfigError, match=r"my.yaml:3: not valid YAML: found undefined alias"):
        sample_layers(tmp_path, "_base_: base.yaml\noptimizer:\n  <<: *slow\n", base=CONFIG)


def test_base_key_and_component_key_can_be_merged(tmp_path: Path) -> None:
    text = (
        "x-run: &run {_base_: base.yaml, epochs: 2}\n"
        "x-sgd: &sgd {_component_: tests.config.sample.Sgd, lr: 0.3}\n"
        "<<: *run\noptimizer: {<<: *sgd, momentum: 0.2}\n"
    )
    layers = sample_layers(tmp_path, text, base=CONFIG)
    cfg: Any = layers.build()
    assert (cfg.output_dir, cfg.epochs) == ("runs/merged", 2)
    assert cfg.optimizer.keywords == {"lr": 0.3, "momentum": 0.2}
    assert file_and_line(layers.origin(("epochs",))) == "my.yaml:1"
