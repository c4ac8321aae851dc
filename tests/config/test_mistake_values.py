"""The fields of a mistake, not its wording, determine how and where the mistake is reported."""

import ast
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from tests.config import deep, sample, wide
from torchtune import config
from torchtune.cli import main
from torchtune.config import ConfigError, FieldError, Mistake
from torchtune.config import _classes as classes
from torchtune.config import _types as types
from torchtune.config._mistakes import Kind
from torchtune.config.model import dotted
from torchtune.runs import Recipe

ROOT = Path(__file__).resolve().parents[2]


def mistakes_in(recipe: Recipe[Any], yaml: str, folder: Path, *overrides: str) -> tuple[Mistake, ...]:
    """Return the mistakes in YAML text with overrides."""
    (folder / "my.yaml").write_text(yaml)
    with pytest.raises(ConfigError) as caught:
        recipe.layers(str(folder / "my.yaml"), overrides).build()
    return caught.value.mistakes


# YAML text whose first line is `output_dir: out`, overrides, and the fields of the only mistake: kind, path,
# expected, got, suggestion, and the line in the file (0 for the command line).
Fields = tuple[Kind, str, str, str, str, int]
SINGLE_ERROR_CASES: dict[tuple[str, ...], Fields] = {
    ("batch_size: x",): ("wrong_type", "batch_size", "an int above 0", "'x'", "", 2),
    ("batch_size: 0",): ("rule", "batch_size", "an int above 0", "0", "", 2),
    ("batch_size: 4", "batch_size=0"): ("rule", "batch_size", "an int above 0", "0", "", 0),
    ("batch_sizee: 4",): ("unknown", "batch_sizee", "", "batch_sizee", "did you mean 'batch_size'?", 2),
    ("tags: [a]", "tags.3=x"): ("unknown", "tags.3", "", "", "", 0),
    ("optimizer:\n  lrr: 1",): ("unknown", "optimizer.lrr", "", "lrr", "did you mean 'lr'?", 3),
    ("optimizer:\n  lr: x",): ("wrong_type", "optimizer.lr", "a float", "'x'", "", 3),
    ("dtype: fp23",): ("wrong_type", "dtype", "one of 'fp32', 'bf16'", "'fp23'", "did you mean 'fp32'?", 2),
    ("optimizer: {_component_: os.system}",): ("component", "optimizer", "", "", "", 2),
    ("optimizer: {_component_: numpy.array}",): (
        "component",
        "optimizer",
        "",
        "",
        "if you trust its code, add --allow numpy",
        2,
    ),
    ("optimizer: {_component_: tests.config.sample.Sgd}",): ("component", "optimizer", "", "", "", 2),
    ("tags: ['${nothing}']",): ("reference", "tags.0", "", "", "", 2),
    ("folder: ${output_dirr}",): ("reference", "folder", "", "", "did you mean 'output_dir'?", 2),
    ("seed: 1\nseed: 2",): ("source", "seed", "", "", "keep one of them", 3),
    ("", "--batch_size"): ("argument", "", "", "", "", 0),
}


@pytest.mark.parametrize(("number", "case"), list(enumerate(SINGLE_ERROR_CASES)))
def test_each_kind_of_mistake_sets_its_fields(number: int, case: tuple[str, ...], tmp_path: Path) -> None:
    yaml, *overrides = case
    (mistake,) = mistakes_in(sample.main, f"output_dir: out\n{yaml}\n", tmp_path, *overrides)
    kind, path, expected, got, suggestion, line = SINGLE_ERROR_CASES[case]
    assert (mistake.kind, dotted(mistake.path), mistake.location.line) == (kind, path, line), mistake
    assert (mistake.expected, mistake.got, mistake.suggestion) == (expected, got, suggestion)
    assert mistake.location.kind == ("file" if line else "command line")


def test_missing_field_is_located_in_the_last_file_and_has_its_type(tmp_path: Path) -> None:
    (mistake,) = mistakes_in(sample.main, "seed: 1\n", tmp_path)
    assert (mistake.kind, mistake.path, mistake.expected) == ("missing", ("output_dir",), "text")
    assert mistake.suggestion == "set output_dir=..."
    assert (mistake.location.line, mistake.location.kind) == (0, "file")
    assert mistake.documentation == "The output folder."
    line = "my.yaml: output_dir: required (text); set output_dir=... (The output folder)"
    assert str(mistake).endswith(line)


def test_locations_sort_in_reading_order(tmp_path: Path) -> None:
    yaml = "output_dir: out\nepochs: 0\nseed: x\n"
    mistakes = mistakes_in(sample.main, yaml, tmp_path, "shuffle=1", "batch_size=0", "--nothing")
    assert [m.kind for m in mistakes] == ["argument", "rule", "wrong_type", "wrong_type", "rule"]
    assert [m.location for m in mistakes] == sorted(m.location for m in mistakes)
    assert [str(m.location).rpartition("/")[2] for m in mistakes] == [
        "--nothing",
        "my.yaml:2",
        "my.yaml:3",
        "--override shuffle=1",
        "--override batch_size=0",
    ]


MESSAGE = {"rule": "", "contradiction": "", "value_error": ""}


def _at_most_maximum(cfg: "RuledConfig", _: object, value: int) -> None:
    if value > cfg.maximum:
        raise FieldError(MESSAGE["rule"], "count", "maximum")


def _not_bad(_cfg: "RuledConfig", _attribute: object, value: str) -> None:
    if value == "bad":
        raise ValueError(MESSAGE["value_error"])


@define(kw_only=True)
class Span:
    """A section with a rule."""

    low: int = 0
    high: int = 10
    name: str = "span"

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise FieldError(MESSAGE["contradiction"], "low", "high")


@define(kw_only=True)
class RuledConfig:
    """A config with rules about multiple fields. The tests set the messages of the rules."""

    count: int = field(default=5, validator=_at_most_maximum)
    maximum: int = 10
    other: int = 0
    span: Span = field(factory=Span)
    word: str = field(default="good", validator=_not_bad)


@config.parse
def ruled(cfg: RuledConfig) -> None:
    """Do nothing."""


WORDINGS = [
    "count is more than maximum",
    "expected something else, got this",
    "required (other)",
    "other, name, high, low, count",
    "",
]


@pytest.mark.parametrize("wording", WORDINGS)
def test_wording_of_a_rule_does_not_affect_its_location(
    wording: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MESSAGE:
        monkeypatch.setitem(MESSAGE, name, wording)
    yaml = "other: 1\nmaximum: 3\nspan:\n  low: 20\n  name: x\nword: bad\n"
    rule, contradiction, value_error = mistakes_in(ruled, yaml, tmp_path)
    # `count` is a default, so the mistake is at `maximum`, on line 2.
    assert (rule.kind, rule.path, rule.fields) == ("rule", ("count",), ("count", "maximum"))
    assert rule.location.line == 2
    # `high` is a default, so the mistake is at `low`, on line 4, not at `name`, which is set after `low`.
    assert (contradiction.kind, contradiction.path) == ("contradiction", ("span",))
    assert (contradiction.fields, contradiction.location.line) == (("low", "high"), 4)
    # A plain ValueError names no fields, so the mistake is at the validated field.
    assert (value_error.kind, value_error.path, value_error.location.line) == ("rule", ("word",), 6)
    if wording:
        assert rule.sentence == value_error.sentence == wording
        assert contradiction.sentence == f"low: {wording}"


def test_broken_rule_is_located_at_its_field_if_the_field_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MESSAGE, "rule", "maximum is too small")
    (mistake,) = mistakes_in(ruled, "count: 11\nmaximum: 10\n", tmp_path)
    assert mistake.location.line == 1
    (mistake,) = mistakes_in(ruled, "maximum: 4\nother: 1\n", tmp_path)
    assert mistake.location.line == 1


def test_contradiction_that_names_no_fields_is_located_at_the_last_field_that_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contradicts(self: deep.DeepConfig) -> None:
        raise ValueError("start and end do not match")

    monkeypatch.setattr(deep.DeepConfig, "__attrs_post_init__", contradicts)
    (mistake,) = mistakes_in(deep.main, "start: 4\nprefix: x\nlabel: y\n", tmp_path)
    assert (mistake.kind, mistake.path, mistake.fields, mistake.location.line) == ("contradiction", (), (), 3)


def test_type_descriptions_affect_only_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [types.metavar(t) for t in (int, int | None, list[int], Path | None, str | list[str])]
    monkeypatch.setitem(types.SCALARS, int, "a whole number or so")
    (mistake,) = mistakes_in(sample.main, "output_dir: o\nbatch_size: x\n", tmp_path)
    assert str(mistake).endswith("my.yaml:2: batch_size: expected a whole number or so above 0, got 'x'")
    (mistake,) = mistakes_in(wide.main, "steps: 1\nsmall: x\n", tmp_path)
    assert mistake.expected == "a whole number or so above 0"
    after = [types.metavar(t) for t in (int, int | None, list[int], Path | None, str | list[str])]
    assert before == after == ["INT", "INT|null", "LIST", "PATH|null", "TEXT|LIST"]


def test_missing_config_is_the_only_reported_mistake_regardless_of_the_wording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing_field(f: classes.Field) -> Mistake:
        return Mistake("missing", "is nowhere", path=(f.name,))

    monkeypatch.setattr(classes, "missing_field", missing_field)
    assert main(["validate", "lora_finetune"]) == 2
    assert capsys.readouterr().err.startswith(
        "1 mistake in the config of lora_finetune:\n  --config: no config given"
    )
    assert main(["validate", "lora_finetune", "--config"]) == 2
    assert "nowhere" not in capsys.readouterr().err


def test_printed_mistakes_equal_the_coloured_error_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    (tmp_path / "my.yaml").write_text("output_dir: o\nseed: 'seed: x'\n'a: b': 1\n")
    call = [str(ROOT / "tests/config/sample.py"), "--config", str(tmp_path / "my.yaml")]
    assert main(["validate", *call]) == 2
    text = capsys.readouterr().err
    with pytest.raises(ConfigError) as caught:
        sample.main.layers(call[2]).build("the config of sample")
    assert re.sub(r"\x1b\[[\d;]*m", "", text) == f"{caught.value}\n"
    file_location = f"\x1b[36m{tmp_path}/my.yaml"
    assert f"{file_location}:2\x1b[0m: \x1b[1mseed\x1b[0m: expected an int or null, got 'seed: x'" in text
    assert f"{file_location}:3\x1b[0m: \x1b[1ma: b\x1b[0m: unknown field 'a: b'" in text


def test_errors_survive_pickling(tmp_path: Path) -> None:
    mistakes = mistakes_in(sample.main, "batch_sizee: 0\n", tmp_path)
    copy = pickle.loads(pickle.dumps(ConfigError(mistakes, "x")))
    assert (copy.mistakes, copy.subject, str(copy)) == (mistakes, "x", str(ConfigError(mistakes, "x")))
    rule = pickle.loads(pickle.dumps(FieldError("must be even", "count", "maximum")))
    assert (rule.message, rule.fields, str(rule)) == (
        "must be even",
        ("count", "maximum"),
        "count: must be even",
    )


TEXT_METHODS = {"startswith", "endswith", "removeprefix", "removesuffix", "replace", "split", "partition"}
TEXT_METHODS |= {"rpartition", "splitlines", "find", "index", "strip"}
EXCEPTIONS_BY_FILE = {
    "config/_yaml.py": "only the first line of PyYAML's message is shown",
    "distributed/_failures.py": "gloo and nccl raise RuntimeError for every failure",
    "distributed/_join.py": "only the first line of torch's message is shown",
    "cli/_download.py": "only the first line of a server's message is shown",
    "utils/metric_logging.py": "only the first line of a logger's message is shown",
    "training/_run_memory.py": "torch has no class for memory that runs out on the CPU",
    "training/_score.py": "torch has no class for memory that runs out on the CPU",
}
"""Files that inspect messages of exceptions of other libraries, with the reasons."""


def is_message(node: ast.expr) -> bool:
    """Return whether an expression is the text of a mistake or of an exception."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id == "str" and isinstance(node.args[0], ast.Name) and "error" in node.args[0].id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return is_message(node.func.value)
    return isinstance(node, ast.Attribute) and node.attr in ("message", "sentence")


def inspects_a_message(node: ast.AST) -> bool:
    """Return whether an expression searches, splits or edits the text of a mistake or of an exception."""
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
        return any(map(is_message, node.comparators))
    if not isinstance(node, ast.Call):
        return False
    is_regex = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "re"
    is_method = isinstance(node.func, ast.Attribute) and node.func.attr in TEXT_METHODS
    return (is_regex and any(map(is_message, node.args))) or (
        is_method and isinstance(node.func, ast.Attribute) and is_message(node.func.value)
    )


def test_no_code_inspects_message_text() -> None:
    files = set()
    for package in ("config", "cli", "distributed", "training", "utils"):
        for file in sorted((ROOT / "torchtune" / package).glob("*.py")):
            if any(map(inspects_a_message, ast.walk(ast.parse(file.read_text())))):
                files.add(f"{package}/{file.name}")
    assert files == EXCEPTIONS_BY_FILE.keys()
