"""The recipes' JSON Schemas accept and reject the same YAML as the config engine."""

import copy
import functools
import json
import os
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.test_random_edits import Edit, apply_edits
from tests.tune import Tune
from torchtune.cli import _schema_files
from torchtune.cli._json_schema import json_schema
from torchtune.cli._schema import build_schema
from torchtune.config import Component, ConfigError, above, lazy
from torchtune.config.model import Layers, parse_yaml, read_yaml, render_yaml
from torchtune.runs import config_names, folder_of, load_recipe
from torchtune.utils.metric_logging import MetricLogger, StdoutLogger

FOLDER = Path(folder_of("configs_yaml"))
FILES = [(recipe, name) for recipe, names in config_names().items() for name in names]


@functools.cache
def validator(recipe: str) -> Any:
    schema = json.loads(build_schema(load_recipe(recipe)))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@define(kw_only=True)
class Section:
    """A section."""

    rank: int = field(default=8, validator=above(0))
    """A number with a validator."""
    names: list[str] = field(factory=lambda: ["a"])
    """A list."""


@define(kw_only=True)
class Small:
    """One field of each kind."""

    output_dir: str
    """A required field."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """A choice."""
    limit: float | None = None
    """A number or null."""
    section: Section = field(factory=Section)
    """A section."""
    metric_logger: Component[MetricLogger] = lazy(StdoutLogger)
    """A component."""


def test_schema_of_a_small_config_class_equals_the_golden_file(request: pytest.FixtureRequest) -> None:
    golden = Path(__file__).with_name("small_schema.json")
    schema = json_schema(Small, "small", "Shows a schema.")
    del schema["definitions"]["foreign"]["pattern"]  # lists the modules of this Python version
    text = json.dumps(schema, indent=1) + "\n"
    if request.config.getoption("--update-configs"):
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text, "run: make configs"


def referenced_schema(file: Path) -> Path:
    comment = file.read_text(encoding="utf-8").partition("\n")[0]
    return file.parent / comment.removeprefix("# yaml-language-server: $schema=")


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize(("recipe", "name"), FILES)
def test_config_and_its_copy_reference_the_schema_of_their_recipe(
    recipe: str, name: str, tune: Tune, tmp_path: Path
) -> None:
    assert tune("cp", name, str(tmp_path / "copy.yaml")).status == 0
    for file in (FOLDER / f"{name}.yaml", tmp_path / "copy.yaml"):
        schema = referenced_schema(file)
        assert json.loads(schema.read_text(encoding="utf-8"))["title"] == f"A config of {recipe}"


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize("name", ["copy.yaml", "runs/my runs/copy.yaml", "./copy.yaml"])
def test_copy_next_to_configs_yaml_references_its_schema_by_relative_path(
    name: str, tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "configs_yaml").symlink_to(FOLDER)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    tune("cp", "smollm2_135m_lora", name)
    schema_path = Path(name).read_text(encoding="utf-8").partition("\n")[0].rpartition("=")[2]
    assert not Path(schema_path).is_absolute()
    schema = Path(name).parent / schema_path
    assert schema.resolve() == (FOLDER / "schemas/lora_finetune.json").resolve()


@pytest.mark.slow
def test_empty_schemas_of_a_wheel_are_built_on_first_use(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lora_finetune.json").write_text(_schema_files.EMPTY)
    monkeypatch.setattr(_schema_files, "schema_folder", lambda: str(tmp_path))
    assert not _schema_files.is_built(str(tmp_path / "lora_finetune.json"))
    assert tune("schema", "--all", "-o", str(tmp_path)).status == 0
    assert {path.stem for path in tmp_path.iterdir()} == config_names().keys()
    assert _schema_files.schema_file("lora_finetune") == str(tmp_path / "lora_finetune.json")


def test_copy_starts_with_its_recipe_if_the_schema_cannot_be_written(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_schema_files, "schema_folder", lambda: str(tmp_path / "schemas"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert tune("cp", "smollm2_135m_lora", str(tmp_path / "copy.yaml")).status == 0
    assert (tmp_path / "copy.yaml").read_text().startswith("# recipe: lora_finetune\noutput_dir:")
    assert tune("validate", "--all", str(tmp_path)).out.count(": ok: ") == 1


def engine_accepts(recipe: str, tree: Any) -> bool:
    layers = Layers.of_defaults(load_recipe(recipe).config_class)
    try:
        layers.add_document(parse_yaml(render_yaml(tree), "my.yaml"))
        layers.build()
    except ConfigError:
        return False
    return True


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(("recipe", "name"), FILES)
def test_schema_accepts_every_shipped_config(recipe: str, name: str) -> None:
    assert list(validator(recipe).iter_errors(read_yaml(str(FOLDER / f"{name}.yaml")).value)) == []


VALID = read_yaml(str(FOLDER / "smollm2_135m_lora.yaml")).value

# Invalid edits of the shipped LoRA config: a field path and its new value; `...` removes the field.
INVALID_EDITS: list[tuple[str, Any]] = [
    ("batch_sizee", 4),
    ("batch_size", 0),
    ("batch_size", "four"),
    ("batch_size", 2.5),
    ("batch_size", None),
    ("shuffle", "yes"),
    ("shuffle", 1),
    ("dtype", "fp23"),
    ("device", "tpu"),
    ("seed", -1),
    ("seed", "x"),
    ("output_dir", None),
    ("output_dir", ""),
    ("epochs", "3"),
    ("max_steps_per_epoch", 0),
    ("clip_grad_norm", 0.0),
    ("clip_grad_norm", "x"),
    ("save_every_n_steps", -1),
    ("model", None),
    ("model", "torchtune.models.smollm2.smollm2_135m"),
    ("model._component_", "torchtune.models.smollm2.smollm2_136m"),
    ("model._component_", "torch.optim.AdamW"),
    ("model._component_", "os.system"),
    ("model._component_", 3),
    ("model.max_seq_lenn", 8),
    ("model.max_seq_len", "x"),
    ("tokenizer._component_", "torchtune.tokenizers._hf.HFTokenizer"),
    ("tokenizer.path", 3),
    ("dataset.tokenizer", "x"),
    ("dataset.sourc", "x"),
    ("dataset.max_seq_len", 1.5),
    ("loss._component_", "torch.nn.Linear"),
    ("loss.reduction", "mean"),
    ("optimizer.lrr", 0.1),
    ("optimizer.lr", "fast"),
    ("optimizer.lr", -1.0),
    ("optimizer.betas", [0.9]),
    ("optimizer.betas", [0.9, 2.0]),
    ("optimizer.params", []),
    ("optimizer._component_", "torch.optim.AdamX"),
    ("lr_scheduler._component_", "torch.optim.lr_scheduler.StepLR"),
    ("lr_scheduler.warmup_steps", -3),
    ("lr_scheduler.warmup_steps", 1.5),
    ("metric_logger.log_dirr", "x"),
    ("lora.ranks", 3),
    ("lora.rank", 0),
    ("lora.dropout", 1.0),
    ("lora.targets", []),
    ("lora.targets", "q_proj"),
    ("lora", 3),
    ("output_dir", ...),
    ("model", ...),
    ("model_directory", ...),
    ("tokenizer.path", ...),
]


@pytest.mark.quick_cases(32)
@pytest.mark.parametrize(("path", "value"), INVALID_EDITS)
def test_schema_and_engine_reject_the_same_invalid_edit(path: str, value: Any) -> None:
    tree = copy.deepcopy(VALID)
    *above, last = path.split(".")
    parent = functools.reduce(dict.__getitem__, above, tree)
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    assert not engine_accepts("lora_finetune", tree)
    assert not validator("lora_finetune").is_valid(tree)


def test_there_are_at_least_30_invalid_edits() -> None:
    assert len(INVALID_EDITS) >= 30


def test_config_with_a_base_may_omit_required_fields() -> None:
    assert validator("lora_finetune").is_valid({"_base_": "smollm2_135m_lora", "optimizer": {"lr": 0.1}})
    assert not validator("lora_finetune").is_valid({"_base_": "smollm2_135m_lora", "optimizer": {"lrr": 0.1}})
    assert not validator("lora_finetune").is_valid({"optimizer": {"lr": 0.1}})


def test_component_outside_torchtune_is_accepted() -> None:
    config = {**VALID, "model": {"_component_": "my_models.tiny", "size": 3}}
    assert validator("lora_finetune").is_valid(config)


values = st.sampled_from(
    [
        None,
        True,
        1,
        0,
        -1,
        0.5,
        "x",
        "${seed}",
        [],
        {},
        ["q_proj"],
        {"_component_": "torch.optim.SGD"},
        "default",
    ]
)
edits = st.lists(
    st.tuples(st.sampled_from(["set", "remove", "rename", "add", "swap"]), st.floats(0, 0.999), values),
    min_size=1,
    max_size=2,
)


@pytest.mark.slow
@settings(max_examples=150)
@given(drawn_edits=edits)
def test_schema_accepts_every_config_that_the_engine_accepts(drawn_edits: list[Edit]) -> None:
    tree = apply_edits(VALID, drawn_edits)
    if engine_accepts("lora_finetune", tree):
        assert list(validator("lora_finetune").iter_errors(tree)) == []


def test_key_for_yaml_anchors_is_accepted_at_the_top_level_only() -> None:
    for tree in ({**VALID, "x-any": {"a": [1]}}, {**VALID, "x-any": None}):
        assert list(validator("lora_finetune").iter_errors(tree)) == []
        assert engine_accepts("lora_finetune", tree)
    nested = {**VALID, "lora": {**VALID["lora"], "x-any": 1}}
    assert list(validator("lora_finetune").iter_errors(nested)) != []
    assert not engine_accepts("lora_finetune", nested)
