"""The JSON Schemas of the recipes' YAML, judged by jsonschema and by the engine."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.test_random_edits import Edit, edited
from torchtune.cli._call import load_recipe
from torchtune.config import ConfigError, Layers, config_names, folder_of, parse_yaml, read_yaml, render_yaml

FOLDER = Path(folder_of("configs_yaml"))
FILES = [(recipe, name) for recipe, names in config_names().items() for name in names]


@functools.cache
def validator(recipe: str) -> Any:
    schema = json.loads((FOLDER / "schemas" / f"{recipe}.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def engine_accepts(recipe: str, tree: Any) -> bool:
    layers = Layers.of_defaults(load_recipe(recipe).config_class)
    try:
        layers.add_document(parse_yaml(render_yaml(tree), "my.yaml"))
        layers.build()
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(("recipe", "name"), FILES)
def test_schema_accepts_every_shipped_config(recipe: str, name: str) -> None:
    assert list(validator(recipe).iter_errors(read_yaml(str(FOLDER / f"{name}.yaml")).value)) == []


VALID = read_yaml(str(FOLDER / "smollm2_135m_lora.yaml")).value

# What is put where, in the shipped LoRA config; an empty text for the value takes the field away.
BROKEN: list[tuple[str, Any]] = [
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
    ("tokenizer._component_", "torchtune.models._hf_tokenizer.HFTokenizer"),
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


@pytest.mark.parametrize(("path", "value"), BROKEN)
def test_schema_refuses_what_the_engine_refuses(path: str, value: Any) -> None:
    tree = copy.deepcopy(VALID)
    *above, last = path.split(".")
    holder = functools.reduce(dict.__getitem__, above, tree)
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    assert not engine_accepts("lora_finetune", tree)
    assert not validator("lora_finetune").is_valid(tree)


def test_there_are_enough_broken_files() -> None:
    assert len(BROKEN) >= 30


def test_file_with_a_base_need_hold_only_what_differs() -> None:
    assert validator("lora_finetune").is_valid({"_base_": "smollm2_135m_lora", "optimizer": {"lr": 0.1}})
    assert not validator("lora_finetune").is_valid({"_base_": "smollm2_135m_lora", "optimizer": {"lrr": 0.1}})
    assert not validator("lora_finetune").is_valid({"optimizer": {"lr": 0.1}})


def test_component_of_the_users_own_is_not_refused() -> None:
    own = {**VALID, "model": {"_component_": "my_models.tiny", "size": 3}}
    assert validator("lora_finetune").is_valid(own)


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


@settings(max_examples=150)
@given(done=edits)
def test_schema_gives_no_false_alarm(done: list[Edit]) -> None:
    tree = edited(VALID, done)
    if engine_accepts("lora_finetune", tree):
        assert list(validator("lora_finetune").iter_errors(tree)) == []


def test_key_that_holds_anchors_is_accepted_at_the_top_only() -> None:
    for tree in ({**VALID, "x-any": {"a": [1]}}, {**VALID, "x-any": None}):
        assert list(validator("lora_finetune").iter_errors(tree)) == []
        assert engine_accepts("lora_finetune", tree)
    nested = {**VALID, "lora": {**VALID["lora"], "x-any": 1}}
    assert list(validator("lora_finetune").iter_errors(nested)) != []
    assert not engine_accepts("lora_finetune", nested)
