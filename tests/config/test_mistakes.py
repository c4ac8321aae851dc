from pathlib import Path

import pytest

from tests.config import sample
from tests.config.printed_mistakes import mistakes_of
from torchtune.config import ConfigError, resolve
from torchtune.config.model import dotted

HEAD = "output_dir: out\n"

# YAML text and its only mistake.
YAML = {
    "batch_sizee: 4": "my.yaml:2: batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?",
    "batch_size: four": "my.yaml:2: batch_size: expected an int above 0, got 'four'",
    "batch_size: 0": "my.yaml:2: batch_size: expected an int above 0, got 0",
    "batch_size: 3.7": "my.yaml:2: batch_size: expected an int above 0, got 3.7",
    "batch_size: true": "my.yaml:2: batch_size: expected an int above 0, got true",
    "batch_size: null": "my.yaml:2: batch_size: expected an int above 0, got null",
    "seed: '7'": "my.yaml:2: seed: expected an int or null, got '7'",
    "shuffle: yes": "my.yaml:2: shuffle: expected true or false, got 'yes'",
    "shuffle: 1": "my.yaml:2: shuffle: expected true or false, got 1",
    "lr_scale: '1.0'": "my.yaml:2: lr_scale: expected a float, got '1.0'",
    "dtype: fp23": "my.yaml:2: dtype: expected one of 'fp32', 'bf16', got 'fp23'; did you mean 'fp32'?",
    "shade: grey": "my.yaml:2: shade: expected one of 'light', 'dark', got 'grey'",
    "folder: 3": "my.yaml:2: folder: expected a path, got 3",
    "folder: ''": "my.yaml:2: folder: expected a path, got ''",
    "tags: word": "my.yaml:2: tags: expected a list of text values, got 'word'",
    "tags: [a, 3]": "my.yaml:2: tags.1: expected text, got 3",
    "sizes: [1, x]": "my.yaml:2: sizes.1: expected an int, got 'x'",
    "limits: {a: b}": "my.yaml:2: limits.a: expected an int, got 'b'",
    "limits: [1]": "my.yaml:2: limits: expected a mapping, got [1]",
    "validation: 3": "my.yaml:2: validation: expected a mapping with fields of Validation or null, got 3",
    "validation:\n  interval: -1": "my.yaml:3: validation.interval: expected an int above 0, got -1",
    "validation:\n  intervl: 1": "my.yaml:3: validation.intervl: unknown field 'intervl'; did you mean 'interval'?",
    "optimizer: null": "my.yaml:2: optimizer: expected a component that builds an Optimizer, "
    "written as a mapping with _component_, got null",
    "optimizer:\n  lrr: 1": "my.yaml:3: optimizer.lrr: tests.config.sample.Adam has no argument 'lrr'; "
    "did you mean 'lr'?",
    "optimizer:\n  lr: x": "my.yaml:3: optimizer.lr: expected a float, got 'x'",
    "optimizer:\n  betas: [0.9]": "my.yaml:3: optimizer.betas: expected a list of 2 floats, got [0.9]",
    "optimizer:\n  params: []": "my.yaml:3: optimizer.params: the recipe passes 'params'; remove it",
    "optimizer:\n  _component_: tests.config.sample.Sgd": "my.yaml:3: optimizer: tests.config.sample.Sgd requires 'lr'",
    "optimizer:\n  _component_: tests.config.sample.Agam": "my.yaml:3: optimizer: tests.config.sample has no 'Agam'; "
    "did you mean 'Adam'?",
    "optimizer:\n  _component_: tests.config.sample.Letters\n  path: x": "my.yaml:3: optimizer: "
    "tests.config.sample.Letters builds a Letters, not an Optimizer",
    "optimizer:\n  _component_: 3": "my.yaml:3: optimizer._component_: expected a dotpath, got 3",
    "optimizer:\n  _component_: Adam": "my.yaml:3: optimizer: 'Adam' is not a dotpath; did you mean 'torch.optim.Adam'",
    "optimizer:\n  _component_: os.system": "my.yaml:3: optimizer: os.system is not allowed: "
    "'os' is in the standard library; use a component of a trusted package",
    "optimizer:\n  _component_: numpy.array": "my.yaml:3: optimizer: numpy.array is not allowed: "
    "'numpy' is not trusted; if you trust its code, add --allow numpy",
    "dataset:\n  _component_: tests.config.sample.unannotated": "my.yaml:3: dataset: "
    "tests.config.sample.unannotated has no return annotation; add one",
    "tokenizer:\n  path: ${output_dirr}": "my.yaml:3: tokenizer.path: ${output_dirr} not found; "
    "did you mean 'output_dir'?",
    "seed: ${seed}": "my.yaml:2: seed: circular references: seed -> seed",
    "batch_size: ${folder}": "my.yaml:2: batch_size: expected an int above 0, got 'data'",
    "tags: ['x ${limits}']": "my.yaml:2: tags.0: ${limits} is not a single value, so it cannot be interpolated into"
    " text",
    "output_dir: twice": "my.yaml:2: output_dir: duplicate key 'output_dir', first on line 1; keep one of them",
    "extra:\n- _component_: tests.config.sample.Rows\n  pakced: true\n  packed: 3": "my.yaml:5: extra.0.packed: "
    "expected true or false, got 3",
    "tags: [a\n": "my.yaml:2: not valid YAML: ",
    "folder: 'x\n": "my.yaml:2: not valid YAML: ",
    f"lr_scale: 1{'0' * 400}": "my.yaml:2: lr_scale: expected a float, got 1000",
    "level: 7": "my.yaml:2: level: expected one of 1, 2, got 7",
    "tone: zzz": "my.yaml:2: tone: expected one of 'warm', 'cool', got 'zzz'",
    '"n\\nx": 1': "my.yaml:2: n\\nx: unknown field 'n\\nx'",
    "_base_: nothing_like_it": "my.yaml:2: _base_: no config 'nothing_like_it'; choose one of",
    "_base_: evil.py:f": "my.yaml:2: _base_: expected a registered config or a YAML file, got 'evil.py:f'",
}


@pytest.mark.parametrize(("yaml", "mistake"), YAML.items())
def test_mistake_in_yaml_has_its_line_path_and_suggestion(yaml: str, mistake: str, tmp_path: Path) -> None:
    (line,) = mistakes_of(yaml=HEAD + yaml, folder=tmp_path)
    assert line.startswith(mistake)


OVERRIDES = {
    ("batch_sizee=4",): "batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?",
    ("batch_size=four",): "batch_size: expected an int above 0, got 'four'",
    ("batch_size=-1",): "batch_size: expected an int above 0, got -1",
    ("batch_size.x=1",): "batch_size.x: batch_size is a single value; it has no 'x'",
    ("shuffle=yes",): "shuffle: expected true or false, got 'yes'",
    ("optimizer.lrr=1",): "optimizer.lrr: tests.config.sample.Adam has no argument 'lrr'; did you mean 'lr'?",
    ("optimizer=tests.config.sample.Sgd",): "optimizer: tests.config.sample.Sgd requires 'lr'",
    ("optimizer=tests.config.sample.Letters",): "optimizer: tests.config.sample.Letters builds a Letters",
    ("optimizer=os.system",): "optimizer: os.system is not allowed",
    ("validation.intervl=3",): "validation.intervl: unknown field 'intervl'; did you mean 'interval'?",
    ("validation.interval=0",): "validation.interval: expected an int above 0, got 0",
    ("extra.0.packed=true",): "extra.0: index out of range; the list has 0 items, and indices start at 0",
    ("+batch_size=3",): "batch_size: `+` requires a list, but this field is not a list",
    ("+nothing=3",): "nothing: unknown field 'nothing'",
    ("output_dir=default",): "",
    ("epochs=default", "batch_size=default"): "",
    ("tokenizer.path=${nowhere}",): "tokenizer.path: ${nowhere} not found",
}


@pytest.mark.quick_cases(10)
@pytest.mark.parametrize(("overrides", "mistake"), OVERRIDES.items())
def test_mistake_in_an_override_is_the_same_in_every_spelling(
    overrides: tuple[str, ...], mistake: str
) -> None:
    plain = mistakes_of(*overrides)
    assert plain == mistakes_of("--override", *overrides)
    if not overrides[0].startswith("+"):
        assert plain == mistakes_of(*(f"--{override}" for override in overrides))
        assert plain == mistakes_of(
            *(part for override in overrides for part in f"--{override}".split("=", 1))
        )
    assert len(plain) == bool(mistake)
    for line in plain:
        assert line.startswith(f"--override {overrides[0]}: {mistake}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--override"], "--override: expected key=value after this option"),
        (["--batch_size"], "--batch_size: expected a value"),
        (["--batch_size", "--seed", "3"], "--batch_size: expected a value"),
        (["word"], "word: expected key=value"),
    ],
)
def test_arguments_that_are_not_overrides_are_reported_as_mistakes(
    overrides: list[str], message: str
) -> None:
    assert mistakes_of(*overrides)[0].startswith(message)


def test_mistakes_from_all_layers_are_in_one_list(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("batch_size: 0\noptimizer:\n  lrr: 1\nnope: 1\n")
    with pytest.raises(ConfigError) as caught:
        sample.main.layers(str(file), ["seed=x", "optimizer.betas=[1]"]).build("the config of sample")
    assert str(caught.value).startswith("6 mistakes in the config of sample:\n")
    assert [dotted(m.path) for m in caught.value.mistakes] == [
        "output_dir",
        "batch_size",
        "optimizer.lrr",
        "nope",
        "seed",
        "optimizer.betas",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "contains a list"),
        ("word", "contains a single value"),
    ],
)
def test_file_that_is_not_a_mapping_is_reported_as_a_mistake(text: str, message: str, tmp_path: Path) -> None:
    assert message in mistakes_of(yaml=text, folder=tmp_path)[0]


def test_missing_file_is_reported_as_one_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        sample.main.layers(str(tmp_path / "none.yaml"))


def test_constructor_validates_values_but_not_references() -> None:
    with pytest.raises(ValueError, match="batch_size: expected a value above 0, got 0"):
        sample.Config(output_dir="x", batch_size=0)
    cfg = sample.plain()
    with pytest.raises(ValueError, match="batch_size"):
        cfg.batch_size = -1
    cfg.batch_size = "${epochs}"  # type: ignore[assignment]  # the result of ref() at run time
    assert resolve(cfg).batch_size == 1


def test_slots_reject_a_misspelled_field() -> None:
    with pytest.raises(AttributeError):
        sample.plain().batch_sizee = 3  # type: ignore[attr-defined]  # the mistake under test
