"""Rarely used config features: equivalent overrides and YAML give equal configs; mistakes are reported once."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.config import wide
from tests.config.printed_mistakes import printed_mistakes
from torchtune.config import instantiate, lazy, render

RECIPE = str(Path(wide.__file__))
WIDE = "tests.config.wide"

EQUIVALENT = {
    "limits={}": "limits: {}",
    "'limits={b: 2}'": "limits: {b: 2}",
    "'part={interval: 5}'": "part: {interval: 5}",
    "'optimizer={lr: 0.5}'": "optimizer: {lr: 0.5}",
    "mode=default": "mode: default",
    "switch=null": "switch: 'null'",
    "number=1": "number: '1'",
    "optimizer=none": "optimizer: none",
    "either.mode=fast": "either: {mode: fast}",
    "either.interval=5": "either: {interval: 5}",
    "seconds=7": "seconds: 7",
    "sizes.a=2": "sizes: {a: 2, b: x}",
    "by_int.3=x by_int.40=y": "by_int: {3: x, 40: y}",
    "loose.lr=0.5": "loose: {lr: 0.5}",
    "maybe=tests.config.wide.ByPosition maybe.x=3": "maybe: {_component_: tests.config.wide.ByPosition, x: 3}",
    "auto=3": "auto: 3",
    "+tags=x +tags=null": "tags: [x, 'null']",
}


@pytest.mark.parametrize(("overrides", "yaml"), EQUIVALENT.items())
def test_override_and_yaml_give_the_same_config(overrides: str, yaml: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(f"steps: 3\n{yaml}\n")
    by_yaml = wide.main.layers(str(tmp_path / "my.yaml")).build()
    assert wide.main.layers(None, ["steps=3", *shlex.split(overrides)]).build() == by_yaml


YAML: dict[str, list[str]] = {
    "anything: ${output_dir": [
        "2: anything: '${output_dir' contains a malformed reference; use ${name}, or $${"
    ],
    "anything: ${a{b}}": ["2: anything: '${a{b}}' contains a malformed reference"],
    "by_int: {1: a, 01: b}": ["2: by_int: two keys are equal"],
    "sizes: {a: x, c: 1}": [
        "2: sizes.b: required",
        "2: sizes.a: expected an int, got 'x'",
        "2: sizes.c: unknown field 'c'",
    ],
    "!foo low: 3": ["2: the tag '!foo' is not supported"],
    "low: !!float 3": ["2: low: expected an int, got 3.0"],
    "anything: 1e400": ["2: anything: 1e400 is larger than the largest float"],
    "anything: 0x" + "F" * 5000: ["2: anything: the number has 5,002 digits"],
    "anything: " + "{a: " * 400 + "1" + "}" * 400: ["nested too deeply, or contains an alias to itself"],
    "loose: {lr: -1}": ["2: loose.lr: expected a value of at least 0, got -1"],
    "crash: -1": ["2: crash: AssertionError: crash is not positive"],
    "low: 20": ["2: high: high must not be below low"],
    "converted: x": ["2: converted: invalid literal for int() with base 10: 'x'"],
    "small: 20": ["2: small: 'small' must be < 10: 20"],
    "small: -20": ["2: small: expected an int above 0, got -20"],
    "dtype: fp23": ["2: dtype: expected one of 'fp32', 'bf16' or null, got 'fp23'; did you mean 'fp32'?"],
    "shade: drak": ["2: shade: expected one of 'light', 'dark' or null, got 'drak'; did you mean 'dark'?"],
    "precision: bfloat61": [
        "2: precision: expected a dtype such as 'bfloat16' or null, got 'bfloat61'; did you mean"
    ],
    "auto: atuo": ["2: auto: expected an int or one of 'auto', got 'atuo'; did you mean 'auto'?"],
    "word: fsat": ["2: word: expected text that is one of 'fast', 'slow', got 'fsat'; did you mean 'fast'?"],
    "anything: {_component_: torchtunee.models.x}": [
        "2: anything: torchtunee.models.x is not allowed: 'torchtunee' is not trusted; did you mean 'torchtune'?"
    ],
    "anything: {_component_: torch.optm.AdamW}": [
        "2: anything: torch.optm.AdamW is not allowed: in torch, only torch.nn, torch.optim, torch.utils.data are"
    ],
    "_Base_: x": ["2: _Base_: unknown field '_Base_'; did you mean '_base_'?"],
    "base: x": ["2: base: unknown field 'base'; did you mean '_base_'?"],
    "low: ${lwo}\nhigh: ${low}": ["2: low: ${lwo} not found; did you mean 'low'?"],
    "either: {interval: 0}": ["2: either.interval: expected an int above 0, got 0"],
    "either: {intervl: 3}": ["2: either.intervl: unknown field 'intervl'; did you mean 'interval'?"],
    '"a\\e[2Jb\\rc\\u2028d": 1': ["2: a\\x1b[2Jb\\rc\\u2028d: unknown field "],
    "picky: z": ["2: picky: KeyError: 'z'"],
    "low: x\nhigh: ${low}": ["2: low: expected an int, got 'x'"],
    "part: {interval: x}\nsmall: ${part.interval}": ["2: part.interval: expected an int above 0, got 'x'"],
    "either: {modee: fast}": ["2: either.modee: unknown field 'modee'; did you mean 'mode'?"],
    "optimizer: nome": [
        "2: optimizer: expected a component that builds an Optimizer or one of 'none', got 'nome'; did"
    ],
    "steps: 2000\nlow: x": ["1: "],
}


@pytest.mark.parametrize(("number", "yaml"), list(enumerate(YAML)))
def test_yaml_mistake_is_reported_once_with_its_line(number: int, yaml: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(f"steps: 3\n{yaml}\n")
    lines = printed_mistakes(["validate", RECIPE, "--config", str(tmp_path / "my.yaml")], tmp_path)
    if yaml.startswith("steps"):
        assert [line.partition(": ")[2] for line in lines] == [
            "steps: duplicate key 'steps', first on line 1; keep one of them",
            "low: expected an int, got 'x'",
        ]
        return
    assert len(lines) == len(YAML[yaml]), lines
    for line, part in zip(lines, YAML[yaml], strict=True):
        assert line.removeprefix("my.yaml:").removeprefix(" ").startswith(part)


def test_reference_to_a_missing_field_is_not_reported_as_a_second_mistake(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("low: ${steps}\noutput_dir: a${steps}\n")
    lines = printed_mistakes(["validate", RECIPE, "--config", str(tmp_path / "my.yaml")], tmp_path)
    assert lines == ["my.yaml: steps: required (an int); set steps=..."]


OVERRIDES: dict[str, list[str]] = {
    "optimizer=nome": [
        "--override optimizer=nome: optimizer: expected a component that builds an Optimizer or one of 'none', got"
    ],
    "either.modee=fast": [
        "--override either.modee=fast: either.modee: unknown field 'modee'; did you mean 'mode'?"
    ],
    "'part2=${part}' part2.interval=3": [
        "--override part2.interval=3: part2.interval: part2 is the reference ${part}"
    ],
    "'tags=${part.words}' +tags=x": [
        "--override +tags=x: tags: `+` requires a list, but this field is set to the reference ${part.words}"
    ],
    "+pair=z": ["--override +pair=z: pair: expected a list of 2 items: an int, text, got [1, 'a', 'z']"],
    "tags.99999999999999999=x": [
        "--override tags.99999999999999999=x: tags.99999999999999999: index out of range; the list has 0 items"
    ],
    "maybe.x=3": [
        "--override maybe.x=3: maybe.x: maybe is null (set its component first: maybe=package.module.Name)"
    ],
    "--override low 4": ["--override: expected key=value after this option"],
    "--override low": ["--override: expected key=value after this option"],
    "conifg=my.yaml": ["--override conifg=my.yaml: conifg: unknown field 'conifg'; did you mean '--config'?"],
    "--orgins": ["--orgins: unknown option; did you mean '--origins'?"],
    "--allow=": ["--allow: expected a value"],
    "seconds=x": ["--override seconds=x: seconds: expected an int, got 'x'"],
    "steps=2000": ["--override steps=2000: steps is more than 1000"],
    "low=20": ["--override low=20: high: high must not be below low"],
}


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_command_line_mistake_is_reported_once(overrides: str) -> None:
    lines = printed_mistakes(["validate", RECIPE, "steps=3", *shlex.split(overrides)])
    assert len(lines) == len(OVERRIDES[overrides]), lines
    for line, start in zip(lines, OVERRIDES[overrides], strict=True):
        assert line.startswith(start)


HEAD = """import dataclasses
from tests.config.wide import *

def c() -> WideConfig:
"""

# The body of a config function, starting on line 5, with overrides, and the expected mistakes.
PYTHON: dict[tuple[str, ...], list[str]] = {
    ("c = WideConfig(steps=1)\nc.optimizer.lr = 0.5\nreturn c",): [
        "6: AttributeError: a lazy partial is read-only; assign a new one: lazy(Adam, lr=...)"
    ],
    ("c = WideConfig(steps=1)\nc.part2 = Part()\nc.part2.intervl = 0\nreturn c",): [
        "7: part2.intervl: unknown field 'intervl'"
    ],
    ("c = WideConfig(steps=1)\nc.parts = [Part(), Part(intervl=3)]\nreturn c",): [
        "6: parts.1.intervl: unknown field 'intervl'"
    ],
    ("c = WideConfig(steps=1)\nc.part = Deep()\nreturn c",): ["6: part: expected a Part, got a Deep"],
    ("c = WideConfig(steps=1, limits={'a': 1, 3: 2})\nreturn c",): [
        "5: limits.3: expected a key that is text, got 3"
    ],
    ("c = WideConfig(steps=1, by_int={1: 'a', '1': 'b'})\nreturn c",): [
        "5: by_int: two keys have the same text in YAML"
    ],
    ("c = WideConfig(steps=1)\nc.anything = b'x'\nc.low = 'x'\nreturn c", "small=0"): [
        "6: anything: a value of type builtins.bytes cannot be written to YAML; use text or a number",
        "7: low: expected an int, got 'x'",
        "small: expected an int above 0, got 0",
    ],
    ("return WideConfig(steps=2000, low='x')",): ["5: low: expected an int, got 'x'"],
    ("return WideConfig(steps=2000)",): ["5: steps is more than 1000"],
    ("return WideConfig(steps=2000)", "steps=3"): [],
    ("c = WideConfig(low='x')\nreturn c", "small=0"): [
        "5: low: expected an int, got 'x'",
        "5: steps: required (an int); set steps=...",
        "small: expected an int above 0, got 0",
    ],
    ("c = WideConfig(steps=1)\nc.frozen = Frozen(7, 'zz', 4)\nreturn c",): ["6: TypeError: "],
    ("c = WideConfig(steps=1)\nc.frozen = Frozen(7, p=8)\nreturn c",): ["6: TypeError: "],
    ("c = WideConfig(steps=1)\nc.parts = [Part(), Deep()]\nreturn c",): [
        "6: parts.1: expected a Part, got a Deep"
    ],
    ("c = WideConfig(steps=1)\nc.named = {'a': Deep()}\nreturn c",): [
        "6: named.a: expected a Part, got a Deep"
    ],
    ("c = WideConfig(steps=1)\nc.pairs = (Part(), Part(intervl=3))\nreturn c",): [
        "6: pairs.1.intervl: unknown field 'intervl'"
    ],
    ("c = WideConfig(low=2)\nc.high = c.steps * 2 + c.low\nif c.steps > 3:\n    c.low = 'x'\nreturn c",): [
        "5: steps: required"
    ],
    ("return WideConfig(steps=1, converted='x', low='y')", "small=0"): [
        "5: converted: invalid literal for int() with base 10: 'x'",
        "5: low: expected an int, got 'y'",
        "small: expected an int above 0, got 0",
    ],
    ("c = WideConfig(steps=1)\nc.frozen = dataclasses.replace(c.frozen, p='x')\nreturn c",): [
        "6: frozen.p: expected an int, got 'x'"
    ],
    ("c = WideConfig(steps=1)\nc.anything = c\nreturn c",): ["6: anything: the value contains itself"],
    ("return WideConfig(stepz=3)",): ["5: stepz: unknown field 'stepz'; did you mean 'steps'?"],
    ("return WideConfig(steps=1, output_dir='${steps')",): [
        "5: output_dir: '${steps' contains a malformed reference"
    ],
}


@pytest.mark.parametrize(("number", "case"), list(enumerate(PYTHON)))
def test_mistakes_of_config_function_and_command_line_are_in_one_list(
    number: int, case: tuple[str, ...], tmp_path: Path
) -> None:
    body, *overrides = case
    file = tmp_path / f"wide_config_{number}.py"
    file.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    lines = printed_mistakes(["validate", RECIPE, "--config", f"{file}:c", *overrides], tmp_path)
    assert len(lines) == len(PYTHON[case]), lines
    expected = sorted(PYTHON[case])
    lines_without_origin = sorted(
        line.removeprefix(f"{file.name}:").removeprefix("--override small=0: ") for line in lines
    )
    for line, start in zip(lines_without_origin, expected, strict=True):
        assert line.startswith(start)


def test_positional_only_argument_is_passed_by_position() -> None:
    cfg = wide.WideConfig(steps=1, maybe=lazy(wide.ByPosition, 3))
    assert "x: 3" in render(cfg)
    component: Any = instantiate(wide.main.layers_of(cfg).build().maybe)
    assert (component.x, component.k) == (3, 1)


LAST_WINS = {
    "small=3 small=default": "small=default",
    "dtype=fp32 dtype=null": "dtype=null",
    "low=3 low='${small}'": "low='${small}'",
    "anything=3 anything=[1]": "anything=[1]",
    "optimizer=none optimizer=tests.config.sample.Sgd optimizer.lr=1.0 'optimizer.params=[]'": (
        "optimizer=tests.config.sample.Sgd optimizer.lr=1.0 'optimizer.params=[]'"
    ),
    "low=x low=4": "low=4",
    "'optimizer={lr: 3}' optimizer=tests.config.sample.Sgd 'optimizer.params=[]'": (
        "optimizer=tests.config.sample.Sgd 'optimizer={lr: 3}' 'optimizer.params=[]'"
    ),
    "loose=tests.config.sample.Sgd loose=tests.config.wide.Loose": "loose=tests.config.wide.Loose",
}


@pytest.mark.parametrize(("overrides", "last"), LAST_WINS.items())
def test_last_of_two_values_takes_precedence(overrides: str, last: str) -> None:
    all_layers = wide.main.layers(None, ["steps=3", *shlex.split(overrides)])
    last_layers = wide.main.layers(None, ["steps=3", *shlex.split(last)])
    assert all_layers.build() == last_layers.build()
    assert all_layers.tree == last_layers.tree


def test_items_of_a_default_list_can_be_set() -> None:
    layers = wide.main.layers(None, ["steps=3", "optimizer.betas.0=0.5"])
    assert layers.build().optimizer.keywords["betas"] == (0.5, 0.999)


def test_last_origin_of_a_list_is_its_last_change() -> None:
    layers = wide.main.layers(None, ["steps=3", "+tags=x"])
    assert str(layers.last_origin(("tags",))) == "--override +tags=x"


def test_mapping_of_sections_is_merged_but_mapping_of_scalars_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("steps: 1\nnamed: {a: {interval: 5}}\nlimits: {x: 1}\n")
    (tmp_path / "my.yaml").write_text(
        "_base_: base.yaml\nnamed: {b: {interval: 6}, a: {source: s}}\nlimits: {y: 2}\n"
    )
    cfg = wide.main.layers(str(tmp_path / "my.yaml")).build()
    assert cfg.named == {"a": wide.Part(interval=5, source="s"), "b": wide.Part(interval=6)}
    assert cfg.limits == {"y": 2}
    (tmp_path / "my.yaml").write_text("_base_: base.yaml\nnamed: {}\n")
    assert wide.main.layers(str(tmp_path / "my.yaml")).build().named == {}


def test_frozen_config_is_the_same_text_every_time() -> None:
    from tests.config import deep

    first, second = (deep.main.export(deep.main.layers(None)) for _ in range(2))
    assert first == second
    assert (
        "# omitted, because YAML cannot represent it: span (default of DeepConfig: computed from other fields)"
        in first
    )
