"""What people rarely write: each value kept whatever the spelling, each mistake said once and where it was made."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.config import wide
from tests.config.broken import lines_of
from torchtune.config import instantiate, lazy, render

RECIPE = str(Path(wide.__file__))
WIDE = "tests.config.wide"

SAME = {
    "limits={}": "limits: {}",
    "'limits={b: 2}'": "limits: {b: 2}",
    "'part={every: 5}'": "part: {every: 5}",
    "'optimizer={lr: 0.5}'": "optimizer: {lr: 0.5}",
    "mode=default": "mode: default",
    "switch=null": "switch: 'null'",
    "number=1": "number: '1'",
    "optimizer=none": "optimizer: none",
    "either.mode=fast": "either: {mode: fast}",
    "either.every=5": "either: {every: 5}",
    "seconds=7": "seconds: 7",
    "sizes.a=2": "sizes: {a: 2, b: x}",
    "by_int.3=x by_int.40=y": "by_int: {3: x, 40: y}",
    "loose.lr=0.5": "loose: {lr: 0.5}",
    "maybe=tests.config.wide.ByPosition maybe.x=3": "maybe: {_component_: tests.config.wide.ByPosition, x: 3}",
    "auto=3": "auto: 3",
    "+tags=x +tags=null": "tags: [x, 'null']",
}


@pytest.mark.parametrize(("words", "yaml"), SAME.items())
def test_override_gives_what_yaml_gives(words: str, yaml: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(f"steps: 3\n{yaml}\n")
    by_yaml = wide.main.layers(str(tmp_path / "my.yaml")).build()
    assert wide.main.layers(None, ["steps=3", *shlex.split(words)]).build() == by_yaml


YAML: dict[str, list[str]] = {
    "anything: ${output_dir": [
        "2: anything: '${output_dir' holds an unfinished reference; write ${name}, or $${"
    ],
    "anything: ${a{b}}": ["2: anything: '${a{b}}' holds an unfinished reference"],
    "by_int: {1: a, 01: b}": ["2: by_int: two of its keys are the same"],
    "sizes: {a: x, c: 1}": [
        "2: sizes.b: is required",
        "2: sizes.a: expected an int, got 'x'",
        "2: sizes.c: no 'c'",
    ],
    "!foo low: 3": ["2: the tag '!foo' is not read here"],
    "low: !!float 3": ["2: low: expected an int, got 3.0"],
    "anything: 1e400": ["2: anything: 1e400 is larger than the largest float"],
    "anything: 0x" + "F" * 5000: ["2: anything: a number of 5,002 digits"],
    "anything: " + "{a: " * 400 + "1" + "}" * 400: ["nested too deeply, or an alias that contains itself"],
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
    "word: fsat": ["2: word: expected text out of 'fast', 'slow', got 'fsat'; did you mean 'fast'?"],
    "anything: {_component_: torchtunee.models.x}": [
        "2: anything: torchtunee.models.x is refused: 'torchtunee' is not trusted; did you mean 'torchtune'?"
    ],
    "anything: {_component_: torch.optm.AdamW}": [
        "2: anything: torch.optm.AdamW is refused: of torch, only torch.nn, torch.optim, torch.utils.data are trusted"
    ],
    "_Base_: x": ["2: _Base_: no '_Base_'; did you mean '_base_'?"],
    "base: x": ["2: base: no 'base'; did you mean '_base_'?"],
    "low: ${lwo}\nhigh: ${low}": ["2: low: ${lwo} names nothing; did you mean 'low'?"],
    "either: {every: 0}": ["2: either.every: expected an int above 0, got 0"],
    "either: {evry: 3}": ["2: either.evry: no 'evry'; did you mean 'every'?"],
    '"a\\e[2Jb\\rc\\u2028d": 1': ["2: a\\x1b[2Jb\\rc\\u2028d: no "],
    "picky: z": ["2: picky: KeyError: 'z'"],
    "low: x\nhigh: ${low}": ["2: low: expected an int, got 'x'"],
    "part: {every: x}\nsmall: ${part.every}": ["2: part.every: expected an int above 0, got 'x'"],
    "either: {modee: fast}": ["2: either.modee: no 'modee'; did you mean 'mode'?"],
    "optimizer: nome": [
        "2: optimizer: expected a component that builds an Optimizer or one of 'none', got 'nome'; did"
    ],
    "steps: 2000\nlow: x": ["1: "],
}


@pytest.mark.parametrize(("number", "yaml"), list(enumerate(YAML)))
def test_yaml_mistake_is_said_once_and_where_it_was_made(number: int, yaml: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(f"steps: 3\n{yaml}\n")
    found = lines_of(["validate", RECIPE, "--config", str(tmp_path / "my.yaml")], tmp_path)
    if yaml.startswith("steps"):
        assert [line.partition(": ")[2] for line in found] == [
            "steps: duplicate key 'steps', first on line 1; keep one of them",
            "low: expected an int, got 'x'",
        ]
        return
    assert len(found) == len(YAML[yaml]), found
    for line, part in zip(found, YAML[yaml], strict=True):
        assert line.removeprefix("my.yaml:").removeprefix(" ").startswith(part)


def test_reference_to_what_is_missing_is_no_second_mistake(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("low: ${steps}\noutput_dir: a${steps}\n")
    found = lines_of(["validate", RECIPE, "--config", str(tmp_path / "my.yaml")], tmp_path)
    assert found == ["my.yaml: steps: is required: an int; write steps=..."]


WORDS: dict[str, list[str]] = {
    "optimizer=nome": [
        "--override optimizer=nome: optimizer: expected a component that builds an Optimizer or one of 'none', got"
    ],
    "either.modee=fast": ["--override either.modee=fast: either.modee: no 'modee'; did you mean 'mode'?"],
    "'part2=${part}' part2.every=3": [
        "--override part2.every=3: part2.every: part2 is the reference ${part}"
    ],
    "'tags=${part.words}' +tags=x": ["--override +tags=x: tags: is the reference ${part.words}"],
    "+pair=z": ["--override +pair=z: pair: expected a list of 2: an int, text, got [1, 'a', 'z']"],
    "tags.99999999999999999=x": [
        "--override tags.99999999999999999=x: tags.99999999999999999: the list has 0 items"
    ],
    "maybe.x=3": [
        "--override maybe.x=3: maybe.x: maybe is null; name its component first, maybe=package.module.Name"
    ],
    "--override low 4": ["--override: needs key=value after it"],
    "--override low": ["--override: needs key=value after it"],
    "conifg=my.yaml": ["--override conifg=my.yaml: conifg: no 'conifg'; did you mean '--config'?"],
    "--orgins": ["--orgins: is not understood; did you mean '--origins'?"],
    "--allow=": ["--allow: needs a value"],
    "seconds=x": ["--override seconds=x: seconds: expected an int, got 'x'"],
    "steps=2000": ["--override steps=2000: steps is more than 1000"],
    "low=20": ["--override low=20: high: high must not be below low"],
}


@pytest.mark.parametrize("words", WORDS)
def test_mistake_of_the_command_line_is_said_once(words: str) -> None:
    found = lines_of(["validate", RECIPE, "steps=3", *shlex.split(words)])
    assert len(found) == len(WORDS[words]), found
    for line, start in zip(found, WORDS[words], strict=True):
        assert line.startswith(start)


HEAD = """import dataclasses
from tests.config.wide import *

def c() -> WideConfig:
"""

# The body of a config function, whose first line is 5, words beside it, and the mistakes.
PYTHON: dict[tuple[str, ...], list[str]] = {
    ("c = WideConfig(steps=1)\nc.optimizer.lr = 0.5\nreturn c",): [
        "6: AttributeError: a lazy cannot be changed; assign another: lazy(Adam, lr=...)"
    ],
    ("c = WideConfig(steps=1)\nc.part2 = Part()\nc.part2.evry = 0\nreturn c",): ["7: part2.evry: no 'evry'"],
    ("c = WideConfig(steps=1)\nc.parts = [Part(), Part(evry=3)]\nreturn c",): ["6: parts.1.evry: no 'evry'"],
    ("c = WideConfig(steps=1)\nc.part = Deep()\nreturn c",): ["6: part: expected a Part, got a Deep"],
    ("c = WideConfig(steps=1, limits={'a': 1, 3: 2})\nreturn c",): [
        "5: limits.3: expected text as key, got 3"
    ],
    ("c = WideConfig(steps=1, by_int={1: 'a', '1': 'b'})\nreturn c",): [
        "5: by_int: two of its keys are the same"
    ],
    ("c = WideConfig(steps=1)\nc.anything = b'x'\nc.low = 'x'\nreturn c", "small=0"): [
        "6: anything: a value of type builtins.bytes cannot be written to YAML; write it as text or a number",
        "7: low: expected an int, got 'x'",
        "small: expected an int above 0, got 0",
    ],
    ("return WideConfig(steps=2000, low='x')",): ["5: low: expected an int, got 'x'"],
    ("return WideConfig(steps=2000)",): ["5: steps is more than 1000"],
    ("return WideConfig(steps=2000)", "steps=3"): [],
    ("c = WideConfig(low='x')\nreturn c", "small=0"): [
        "5: low: expected an int, got 'x'",
        "5: steps: is required: an int; write steps=...",
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
    ("c = WideConfig(steps=1)\nc.pairs = (Part(), Part(evry=3))\nreturn c",): ["6: pairs.1.evry: no 'evry'"],
    ("c = WideConfig(low=2)\nc.high = c.steps * 2 + c.low\nif c.steps > 3:\n    c.low = 'x'\nreturn c",): [
        "5: steps: is required"
    ],
    ("return WideConfig(steps=1, converted='x', low='y')", "small=0"): [
        "5: converted: invalid literal for int() with base 10: 'x'",
        "5: low: expected an int, got 'y'",
        "small: expected an int above 0, got 0",
    ],
    ("c = WideConfig(steps=1)\nc.frozen = dataclasses.replace(c.frozen, p='x')\nreturn c",): [
        "6: frozen.p: expected an int, got 'x'"
    ],
    ("c = WideConfig(steps=1)\nc.anything = c\nreturn c",): ["6: anything: it contains itself"],
    ("return WideConfig(stepz=3)",): ["5: stepz: no 'stepz'; did you mean 'steps'?"],
    ("return WideConfig(steps=1, output_dir='${steps')",): [
        "5: output_dir: '${steps' holds an unfinished reference"
    ],
}


@pytest.mark.parametrize(("number", "case"), list(enumerate(PYTHON)))
def test_config_function_and_command_line_have_all_mistakes_in_one_list(
    number: int, case: tuple[str, ...], tmp_path: Path
) -> None:
    body, *words = case
    file = tmp_path / f"wide_config_{number}.py"
    file.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    found = lines_of(["validate", RECIPE, "--config", f"{file}:c", *words], tmp_path)
    assert len(found) == len(PYTHON[case]), found
    expected = sorted(PYTHON[case])
    ours = sorted(line.removeprefix(f"{file.name}:").removeprefix("--override small=0: ") for line in found)
    for line, start in zip(ours, expected, strict=True):
        assert line.startswith(start)


def test_positional_only_argument_is_given_by_position() -> None:
    cfg = wide.WideConfig(steps=1, maybe=lazy(wide.ByPosition, 3))
    assert "x: 3" in render(cfg)
    made: Any = instantiate(wide.main.layers_of(cfg).build().maybe)
    assert (made.x, made.k) == (3, 1)


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


@pytest.mark.parametrize(("words", "alone"), LAST_WINS.items())
def test_last_of_two_values_counts(words: str, alone: str) -> None:
    twice = wide.main.layers(None, ["steps=3", *shlex.split(words)])
    once = wide.main.layers(None, ["steps=3", *shlex.split(alone)])
    assert twice.build() == once.build()
    assert twice.tree == once.tree


def test_items_of_a_list_at_its_default_can_be_set() -> None:
    layers = wide.main.layers(None, ["steps=3", "optimizer.betas.0=0.5"])
    assert layers.build().optimizer.keywords["betas"] == (0.5, 0.999)


def test_origin_of_a_list_is_where_it_was_last_changed() -> None:
    layers = wide.main.layers(None, ["steps=3", "+tags=x"])
    assert str(layers.last_origin(("tags",))) == "--override +tags=x"


def test_mapping_of_sections_is_merged_and_one_of_plain_values_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("steps: 1\nnamed: {a: {every: 5}}\nlimits: {x: 1}\n")
    (tmp_path / "my.yaml").write_text(
        "_base_: base.yaml\nnamed: {b: {every: 6}, a: {source: s}}\nlimits: {y: 2}\n"
    )
    cfg = wide.main.layers(str(tmp_path / "my.yaml")).build()
    assert cfg.named == {"a": wide.Part(every=5, source="s"), "b": wide.Part(every=6)}
    assert cfg.limits == {"y": 2}
    (tmp_path / "my.yaml").write_text("_base_: base.yaml\nnamed: {}\n")
    assert wide.main.layers(str(tmp_path / "my.yaml")).build().named == {}


def test_frozen_config_is_the_same_text_every_time() -> None:
    from tests.config import odd

    first, second = (odd.main.export(odd.main.layers(None)) for _ in range(2))
    assert first == second
    assert (
        "# left out, since YAML cannot hold it: span (default of OddConfig: computed from other fields)"
        in first
    )
