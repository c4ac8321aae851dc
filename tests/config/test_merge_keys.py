"""Merge keys: what PyYAML's own loader reads, with the line of every value; and keys that only hold anchors."""

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
    """Writes mappings that merge mappings above them, all numbers different."""

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
            several = [f"*{self.anchor()}" for _ in range(self.draw(st.integers(0, 3)))]
            self.lines.append(f"{indent}<<: [{', '.join(several)}]")

    def anchor(self) -> str:
        return self.draw(st.sampled_from(self.anchors))


@st.composite
def documents(draw: st.DrawFn, merges: list[str]) -> str:
    """Return the text of some mappings with anchors."""
    writer = Writer(draw, merges)
    for i in range(draw(st.integers(1, 4))):
        writer.lines.append(f"key{i}: &name{i}")
        writer.mapping("  ")
        writer.anchors.append(f"name{i}")
    return "\n".join(writer.lines)


@given(documents(["one", "inline"]))
def test_merge_keys_are_read_as_pyyaml_reads_them(text: str) -> None:
    assert parse_yaml(text, "f.yaml").value == yaml.safe_load(text)


class WithoutMerges(yaml.SafeLoader):
    """Reads `<<` as any other key."""

    yaml_implicit_resolvers = {"<": []}  # noqa: RUF012 -- PyYAML's own attribute, looked up by the first letter


def merged(value: Any) -> Any:
    """Merge as https://yaml.org/type/merge.html says, in values."""
    if not isinstance(value, dict):
        return int(value)
    sources = value.get("<<", [])
    found = {key: merged(item) for key, item in value.items() if key != "<<"}
    for source in sources if isinstance(sources, list) else [sources]:
        found = merged(source) | found
    return found


@given(documents(["one", "inline", "list", "list"]))
def test_merge_keys_follow_the_specification_each_value_at_its_line(text: str) -> None:
    """PyYAML itself lets the last of a list win (6.0.4), where the specification says the first."""
    document = parse_yaml(text, "f.yaml")
    assert document.mistakes == []
    assert document.value == merged(yaml.load(text, WithoutMerges))
    lines = text.splitlines()
    for path, value in leaves(document.value):
        assert lines[document.lines[path] - 1].endswith(f"{path[-1]}: {value}")


def test_example_of_the_specification_gives_four_equal_mappings() -> None:
    """The example of https://yaml.org/type/merge.html."""
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
    *_, explicit, one, several, overridden = parse_yaml(text, "f.yaml").value
    assert explicit == one == several == overridden


WRONG = {
    "a: &a\n  <<: *a\n  x: 1": "f.yaml:2: a.<<: a mapping cannot be merged into itself",
    "a: &a\n  x: &x\n    <<: *a": "f.yaml: nested too deeply, or an alias that contains itself",
    "a:\n  <<: base": "f.yaml:2: a.<<: expected mappings to merge, got 'base'; write *name, or [*name, *other]",
    "s: &s [1]\na:\n  <<: *s": "f.yaml:3: a.<<: expected mappings to merge, got '1'; write *name, or [*name, *other]",
    "a:\n  <<: [[]]": "f.yaml:2: a.<<: expected mappings to merge, got a list; write *name, or [*name, *other]",
    "a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a": (
        "f.yaml:4: b.<<: duplicate key '<<', first on line 3; merge a list, <<: [*a, *b]"
    ),
    "a:\n  <<: !!python/dict {x: 1}": (
        "f.yaml:2: a.<<: the tag 'tag:yaml.org,2002:python/dict' is not read here;"
        " write plain values and _component_"
    ),
    "a: &a\n  x: 1\n  x: 2\nb:\n  <<: *a\nc: *a": "f.yaml:3: a.x: duplicate key 'x', first on line 2; keep one of them",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_merged_is_one_mistake_at_its_line(text: str) -> None:
    try:
        found = parse_yaml(text, "f.yaml").mistakes
    except ConfigError as error:
        found = list(error.mistakes)
    assert list(map(str, found)) == [WRONG[text]]


@pytest.mark.parametrize("first", ["{}", "{x: 1}"])
def test_mappings_that_merge_each_other_many_times_are_an_alias_bomb(first: str) -> None:
    text = f"a0: &a0 {first}\n"
    text += "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))
    with pytest.raises(ConfigError, match="alias bomb"):
        parse_yaml(text, "f.yaml")


def test_quoted_merge_key_is_a_key() -> None:
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
    """Return the layers of a YAML, with another as its base."""
    (folder / "my.yaml").write_text(text)
    if base is not None:
        (folder / "base.yaml").write_text(base)
    return config_layers(str(folder / "my.yaml"), sample_recipe.config_class)


def short(origin: Location) -> str:
    return str(origin).rpartition("/")[2]


def test_keys_that_hold_anchors_are_no_fields_and_origins_are_the_values_lines(tmp_path: Path) -> None:
    layers = sample_layers(tmp_path, CONFIG)
    cfg: Any = layers.build()
    assert cfg.output_dir == "runs/merged"
    assert cfg.optimizer.keywords == {"lr": 0.1, "momentum": 0.9}
    assert not [name for name in layers.tree if name.startswith("x-")]
    origins = {path: short(layers.origin(path)) for path in layers.origins}
    assert origins["optimizer", "lr"] == "my.yaml:3"
    assert origins["optimizer", "momentum"] == "my.yaml:10"
    assert origins["optimizer", "_component_"] == "my.yaml:8"


def test_mistake_in_a_merged_value_is_at_the_line_where_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        sample_layers(
            tmp_path, CONFIG.replace("lr: 0.1", "lr: fast").replace("momentum: 0.5", "mass: 1")
        ).build()
    assert [(short(m.location), m.path) for m in caught.value.mistakes] == [
        ("my.yaml:3", ("optimizer", "lr")),
        ("my.yaml:4", ("optimizer", "mass")),
    ]


def test_merges_of_a_base_file_are_its_own_and_anchors_do_not_cross_files(tmp_path: Path) -> None:
    text = "_base_: base.yaml\nx-more: &more {momentum: 0.7}\noptimizer:\n  <<: *more\n"
    cfg: Any = sample_layers(tmp_path, text, base=CONFIG).build()
    assert cfg.optimizer.keywords == {"lr": 0.1, "momentum": 0.7}
    with pytest.raises(ConfigError, match=r"my.yaml:3: not valid YAML: found undefined alias"):
        sample_layers(tmp_path, "_base_: base.yaml\noptimizer:\n  <<: *slow\n", base=CONFIG)


def test_base_may_be_merged_and_a_merged_component_is_one(tmp_path: Path) -> None:
    text = (
        "x-run: &run {_base_: base.yaml, epochs: 2}\n"
        "x-sgd: &sgd {_component_: tests.config.sample.Sgd, lr: 0.3}\n"
        "<<: *run\noptimizer: {<<: *sgd, momentum: 0.2}\n"
    )
    layers = sample_layers(tmp_path, text, base=CONFIG)
    cfg: Any = layers.build()
    assert (cfg.output_dir, cfg.epochs) == ("runs/merged", 2)
    assert cfg.optimizer.keywords == {"lr": 0.3, "momentum": 0.2}
    assert short(layers.origin(("epochs",))) == "my.yaml:1"
