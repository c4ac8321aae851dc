"""Mistakes in deep configs: contradictory fields, mappings, and nested components in unions."""

from pathlib import Path

import pytest

from tests.config import deep, sample
from tests.config.printed_mistakes import printed_mistakes
from torchtune.config import lazy, nested, render
from torchtune.runs import override

RECIPE = str(Path(deep.__file__))
DEEP = "tests.config.deep"


def mistakes(yaml: str, folder: Path, *overrides: str) -> list[str]:
    """Return the mistakes in YAML text for this recipe, with overrides."""
    (folder / "my.yaml").write_text(yaml)
    return printed_mistakes(["validate", RECIPE, "--config", str(folder / "my.yaml"), *overrides], folder)


# YAML text, overrides, and their mistakes.
MISTAKES: dict[tuple[str, ...], list[str]] = {
    ("start: 11",): ["my.yaml:1: start is after end"],
    ("end: 3\nprefix: x\nstart: 4",): ["my.yaml:3: start is after end"],
    ("end: 3", "start=4"): ["--override start=4: start is after end"],
    ("window:\n  low: 20",): ["my.yaml:2: window: low is 20 and high 10; low must not be above high"],
    ("window: {low: 3}", "window.high=2"): ["--override window.high=2: window: low is 3 and high 2"],
    ("start: 11\nstart: 12",): [
        "my.yaml:1: start is after end",
        "my.yaml:2: start: duplicate key 'start', first on line 1",
    ],
    ("precision: bfloat17",): [
        "my.yaml:1: precision: expected a dtype such as 'bfloat16', got 'bfloat17'; did you"
    ],
    ("precision: [1]",): ["my.yaml:1: precision: expected a dtype such as 'bfloat16', got [1]"],
    ("prefix: {a: 1}",): ["my.yaml:1: prefix: expected text, got a mapping"],
    ("prefix: {_component_: x.y}",): ["my.yaml:1: prefix: expected text, got a component"],
    (f"outer:\n  inner:\n    _component_: {DEEP}.Inner\n    size: x",): [
        "my.yaml:4: outer.inner.size: expected an int, got 'x'"
    ],
    (f"outer:\n  inner:\n    _component_: {DEEP}.Inner\n    sise: 3",): [
        f"my.yaml:4: outer.inner.sise: {DEEP}.Inner has no argument 'sise'; did you mean 'size'?"
    ],
    (f"outer:\n  named:\n    _component_: {DEEP}.Inner\n    size: x",): [
        "my.yaml:4: outer.named.size: expected an int, got 'x'"
    ],
    (f"outer:\n  named:\n    _component_: {DEEP}.Outer",): [
        f"my.yaml:3: outer.named: {DEEP}.Outer builds an Outer, not an Inner"
    ],
    ("outer:\n  named: 3",): ["my.yaml:2: outer.named: expected text, got 3"],
    (f"outer:\n  parts:\n  - _component_: {DEEP}.Inner\n  - _component_: {DEEP}.Innr",): [
        f"my.yaml:4: outer.parts.1: {DEEP} has no 'Innr'; did you mean 'Inner'?"
    ],
    ("outer:\n  table: {a: x}",): ["my.yaml:2: outer.table.a: expected a float, got 'x'"],
    ("outer:\n  table: {_component_: os.system}",): [
        "my.yaml:2: outer.table: expected a mapping or null, got a co"
    ],
    ("outer:\n  words: {x: a}",): ["my.yaml:2: outer.words.x: expected a key that is an int, got 'x'"],
    ("outer:\n  anything: {_component_: os.system, x: 1}",): [
        "my.yaml:2: outer.anything: os.system is not allowed"
    ],
    (f"outers:\n  a: {{_component_: {DEEP}.Outer}}\n  b: {{_component_: {DEEP}.Inner}}",): [
        f"my.yaml:3: outers.b: {DEEP}.Inner builds an Inner, not an Outer"
    ],
    ("optimizer:\n  lr: -1.0",): ["my.yaml:2: optimizer.lr: expected a float of at least 0, got -1.0"],
    ("optimizer:\n  lr: .inf",): ["my.yaml:2: optimizer.lr: expected a float of at least 0, got inf"],
    ("optimizer:\n  lr: .nan",): ["my.yaml:2: optimizer.lr: expected a float of at least 0, got nan"],
    (f"optimizer:\n  _component_: {sample.Adam.__module__}.Adam\n  params: []\n  betas: [0.9, 1.0]",): [
        "my.yaml:4: optimizer.betas: expected a list of 2 floats whose items are each at least 0 and below 1, got"
    ],
    ("{}", "outer=tests.config.deep.Outr", "outer.inner.size=3"): [
        "--override outer=tests.config.deep.Outr: outer: tests.config.deep has no 'Outr'; did you mean 'Outer'?"
    ],
    ("prefix: ${label}\nlabel: ${prefix}\noutput_dir: ${prefix}",): [
        "my.yaml:1: prefix: circular references: label -> prefix -> label",
    ],
    ("other: null\nprefix: a ${other}",): [
        "my.yaml:2: prefix: ${other} is null, so it cannot be interpolated into text"
    ],
    ("start: 999999999" + "9" * 4000,): [
        "my.yaml:1: start: the number has 4,009 digits; the maximum is 4,000"
    ],
    ("outer: {}", "outer.parts=[1", "start=x"): [
        "--override outer.parts=[1: outer.parts: not valid YAML: ",
        "--override start=x: start: expected an int, got 'x'",
    ],
    ("outer: {}", "outer.anything={a: 1, a: 2}"): [
        "--override outer.anything={a: 1, a: 2}: outer.anything: dupl"
    ],
    ("start..x: 1",): ["my.yaml:1: start..x: unknown field 'start..x'"],
    ("{}", "start..x=1"): ["start..x=1: 'start..x' is not a field path: it has an empty part"],
}


@pytest.mark.parametrize(("number", "case"), list(enumerate(MISTAKES)))
def test_mistake_has_its_location_and_path_and_no_follow_up_mistakes(
    number: int, case: tuple[str, ...], tmp_path: Path
) -> None:
    yaml, *overrides = case
    expected = MISTAKES[case]
    lines = mistakes(yaml + "\n", tmp_path, *overrides)
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def reference_bomb(levels: int) -> str:
    """Return YAML text in which every key refers twice to the previous key."""
    lines = ["outer:", "  table: {}", "  anything:", "    k0: xxxxxxxxxx"]
    lines += [f"    k{i}: ${{outer.anything.k{i - 1}}}${{outer.anything.k{i - 1}}}" for i in range(1, levels)]
    return "\n".join(lines)


def reference_chain(length: int) -> str:
    """Return YAML text in which every key refers to the previous key."""
    lines = ["outer:", "  anything:", "    k0: x"]
    return "\n".join([*lines, *(f"    k{i}: ${{outer.anything.k{i - 1}}}" for i in range(1, length))])


@pytest.mark.slow
def test_reference_bomb_and_overlong_chain_are_rejected(tmp_path: Path) -> None:
    assert "use fewer references" in mistakes(reference_bomb(40), tmp_path)[0]
    assert "the chain of references is too long" in mistakes(reference_chain(600), tmp_path)[0]
    assert mistakes(reference_chain(50), tmp_path) == []


EQUIVALENT = {
    "'outer.table={a: 1.5, b-c: 2}'": "outer: {table: {a: 1.5, b-c: 2}}",
    "outer.table.b-c=2 outer.table.a=1.5": "outer: {table: {b-c: 2, a: 1.5}}",
    "--outer.table.b-c 2": "outer: {table: {b-c: 2}}",
    "'outer.words={3: x}'": "outer: {words: {3: x}}",
    "outer.words.3=x": "outer: {words: {3: x}}",
    "outer.named._component_=tests.config.deep.Inner outer.named.size=3": (
        "outer: {named: {_component_: tests.config.deep.Inner, size: 3}}"
    ),
    "outer.inner.size=3 outer.inner=tests.config.deep.Inner": (
        "outer: {inner: {_component_: tests.config.deep.Inner, size: 3}}"
    ),
    "outer.inner.size=3 'outer.inner={_component_: tests.config.deep.Inner}'": (
        "outer: {inner: {_component_: tests.config.deep.Inner, size: 3}}"
    ),
    "+outer.parts=tests.config.deep.Inner +outer.parts=tests.config.deep.Inner outer.parts.1.size=4": (
        "outer: {parts: [{_component_: tests.config.deep.Inner},"
        " {_component_: tests.config.deep.Inner, size: 4}]}"
    ),
    "outers.x=tests.config.deep.Outer outers.x.named=y": (
        "outers: {x: {_component_: tests.config.deep.Outer, named: y}}"
    ),
    "other.low=3": "other: {low: 3}",
    "other.low=3 'other={high: 7}'": "other: {high: 7, low: 3}",
    "window.low=default": "{}",
    "other.low=default": "other: {low: 0}",
    "prefix=b": "prefix: b",
    "label=x": "label: x",
    "outer.anything=1e-4": "outer: {anything: 1e-4}",
    "outer.anything=12:30": "outer: {anything: '12:30'}",
    "outer.anything='a: b'": "outer: {anything: 'a: b'}",
    "outer.named=null": "outer: {named: 'null'}",
}


@pytest.mark.parametrize(("overrides", "yaml"), EQUIVALENT.items())
def test_overrides_and_yaml_build_the_same_config(overrides: str, yaml: str, tmp_path: Path) -> None:
    import shlex

    (tmp_path / "my.yaml").write_text(yaml)
    by_yaml = deep.main.layers(str(tmp_path / "my.yaml"))
    by_overrides = deep.main.layers(None, shlex.split(overrides))
    backwards = deep.main.layers(
        None, shlex.split(overrides)[::-1] if "--" not in overrides else shlex.split(overrides)
    )
    assert by_overrides.build() == by_yaml.build() == backwards.build()
    assert by_overrides.tree == backwards.tree


def test_default_that_depends_on_other_fields_is_computed() -> None:
    layers = deep.main.layers(None, ["start=2", "span=3"])
    assert layers.build().span == 3
    override(layers, [("span", "default")])
    assert layers.build().span == 8


def test_contradiction_and_unknown_option_are_reported_together(tmp_path: Path) -> None:
    lines = mistakes("start: 11\n", tmp_path, "--nothing")
    assert lines == [
        "--nothing: unknown option; --help lists options and fields",
        "my.yaml:1: start is after end",
    ]


def test_int_keys_are_rendered_and_read_back() -> None:
    cfg = deep.DeepConfig(outer=lazy(deep.Outer, nested(deep.Inner), words={1: "a", 20: "b"}))
    rendered = render(cfg)
    assert "'1': a" in rendered
    loaded = deep.main.layers_of(cfg).build()
    assert loaded.outer.keywords["words"] == {1: "a", 20: "b"}
