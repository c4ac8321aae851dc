"""In YAML, Python and overrides, names and options of other projects produce hints that name equivalent fields."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import transformers

import torchtune.datasets
from recipes.lora_finetune import LoraFinetuneConfig
from torchtune._hints import _FIELDS, _RECIPE_SPECIFIC_FIELDS, hint_for
from torchtune.config import ConfigError
from torchtune.config.model import field_names, parameters_of
from torchtune.runs import load_recipe, recipe_names
from torchtune.training import cosine_with_warmup
from torchtune.utils.metric_logging import WandBLogger

FIELDS = field_names(LoraFinetuneConfig)
DATASETS = [
    getattr(torchtune.datasets, name) for name in torchtune.datasets.__all__ if name.endswith("Dataset")
]
ARGUMENTS = {
    "dataset": {name for dataset in DATASETS for name in parameters_of(dataset)},
    "metric_logger": set(parameters_of(WandBLogger)),
    "lr_scheduler": set(parameters_of(cosine_with_warmup)),
}


def mistakes(recipe: str, config: str | None, *overrides: str) -> list[str]:
    """Return the mistakes in a config as strings."""
    try:
        load_recipe(recipe).layers(config, overrides).build()
    except ConfigError as error:
        return list(map(str, error.mistakes))
    return []


@pytest.mark.quick_cases(13)
@pytest.mark.parametrize("text", _FIELDS)
def test_field_or_override_in_a_hint_is_valid(text: str) -> None:
    path = re.split("[=, ]", text)[0]
    root, _, argument = path.partition(".")
    assignment = re.match(r"[\w.]+=(\[.*?\]|\{.*?\}|\w+)", text)
    override = assignment[0] if assignment else f"{path}=default"
    if root in ARGUMENTS and argument:
        assert argument in ARGUMENTS[root]
    elif root in FIELDS:
        messages = mistakes("lora_finetune", "smollm2_135m_lora", override, "dtype=bf16")
        problems = (f"no argument {argument!r}", f"unknown field {argument or root!r}")
        assert not any(problem in line for problem in problems for line in messages)
        assert assignment is None or not messages
    else:
        assert mistakes("alpaca_generate", "smollm2_135m_generate", override) == []


@pytest.mark.parametrize("path", re.findall(r"torch(?:tune)?(?:\.\w+)+", " ".join(_FIELDS)))
def test_component_in_a_hint_exists(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_names_in_the_hint_table_are_unique() -> None:
    names = [name for names in _FIELDS.values() for name in names.split()]
    assert len(names) == len(set(names))


# Prefixes of the TrainingArguments fields (transformers) that have no equivalent in our configs.
NO_EQUIVALENT = re.compile(
    r"hub|push_to_hub|log_|logging_(?!steps)|dataloader_(?!num)|ddp_|torch_empty|trackio|include_|eval_(?!steps|strat|on_start)"
    r"|fp16_full|bf16_full|save_(only|on_each)|debug|skip_memory|do_|local_rank|label_|length_column|restore|ignore_data"
    r"|full_determinism|remove_unused|neftune|use_cache|optim_|average_tokens|disable_tqdm|prediction_loss|batch_eval"
    r"|greater_is|parallelism|accelerator_config|auto_find|tf32|project|enable_jit|train_sampling|activation_checkpointing_"
)


def test_transformers_options_with_an_equivalent_have_a_hint() -> None:
    names = {f.name for f in dataclasses.fields(transformers.TrainingArguments)}
    unknown = {name for name in names if name not in FIELDS and not hint_for(name, FIELDS)}
    assert {name for name in unknown if not NO_EQUIVALENT.match(name)} == set()


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("learning_rate", "use optimizer.lr"),
        ("Learning-Rate", "use optimizer.lr"),
        ("warmup_ratio", "use lr_scheduler.warmup_steps (a value below 1 is a fraction of the run)"),
        ("bf16", "use dtype=bf16"),
        ("lora_target_linear", "use lora.targets=[all-linear]"),
    ],
)
def test_hint_is_shown_in_yaml_in_python_and_on_the_command_line(key: str, hint: str, tmp_path: Path) -> None:
    yaml, name = tmp_path / "my.yaml", key.lower().replace("-", "_")
    yaml.write_text(f"_base_: smollm2_135m_lora\n{key}: 1\n")
    python = tmp_path / f"hinted_{key.replace('-', 'x')}.py"
    python.write_text(
        "from configs_py.smollm2 import smollm2_135m_lora\n\n\n"
        f"def hinted():\n    cfg = smollm2_135m_lora()\n    cfg.{name} = 1\n    return cfg\n"
    )
    assert mistakes("lora_finetune", str(yaml)) == [f"{yaml}:2: {key}: unknown field {key!r}; {hint}"]
    line = f"--override {key}=1: {key}: unknown field {key!r}; {hint}"
    assert mistakes("lora_finetune", "smollm2_135m_lora", f"{key}=1") == [line]
    assert mistakes("lora_finetune", f"{python}:hinted") == [
        f"{python}:6: {name}: unknown field {name!r}; {hint}"
    ]


MESSAGES = {
    "~validation": "expected key=value; fields cannot be removed; use validation=null or validation=default",
    "~lora.dropout=0.1": "fields cannot be removed; use lora.dropout=null or lora.dropout=default",
    "++lora.rank=2": "++lora.rank=2: expected key=value; use lora.rank=2",
    "--override ++batch_size=2": "++batch_size=2: expected key=value; use batch_size=2",
    "+batch_size=2": "`+` requires a list, but this field is not a list; use batch_size=2 to set it",
    "--multirun optimizer.lr=1,2": "a command starts a single run; start several",
    "-m optimizer.lr=1": "-m: unknown option; a command starts a single run; start several",
    "-max_steps=3": "-max_steps: unknown field '-max_steps'; did you mean 'max_steps'?",
    "./runs": "./runs: expected key=value; quote values that contain spaces",
    "~": "~: expected key=value; fields cannot be removed; use KEY=null or KEY=default",
    "--config-name x": "unknown field 'config-name'; use --config NAME",
    "hydra.run.dir=x": "unknown field 'hydra'; Hydra's settings are not supported",
    "--gradient_checkpointing": "unknown option; use placement.activation_checkpointing={}",
    "--packing": "use loading.packing={length: 2048}",
    "--loggin_steps": "--loggin_steps: unknown option; did you mean 'log_every_n_steps'?",
    "--epochs": "--epochs: expected a value: --epochs VALUE, or epochs=VALUE",
    "--dry-run": "--dry-run: unknown option; tune validate RECIPE --config NAME checks a config",
    "--dry-run batch_size=2": "--dry-run: unknown option; tune validate RECIPE --config NAME checks a config",
    "--validate": "--validate: unknown option; tune validate RECIPE --config NAME checks a config",
    "--cfg job": "unknown field 'cfg'; tune export RECIPE --config NAME prints every value of a config",
    "--resume": "--resume: unknown option; running the same command again resumes an unfinished run",
    "--quiet": "--quiet: unknown option; --help lists options and fields",
    "temperature=1": "unknown field 'temperature'; only the recipe alpaca_generate has this field",
    "output_dir=${oc.env:HOME}": "not found; let the shell expand environment variables instead: ",
    "output_dir=x/${now:%Y}": "not found; let the shell expand the date instead: ",
    "output_dir=${x-names.a}": (
        "${x-names.a} not found; x- keys are valid only at the top level of a file, and only YAML aliases"
    ),
    "optimizer.learning_rate=1": "torch.optim.AdamW has no argument 'learning_rate'; use lr",
    "output_dir=${.lora}": "${.lora} not found; relative references are not supported",
    "defaults=[a]": "unknown field 'defaults'; use _base_, the name of a config or a YAML file",
    "optimizer._target_=torch.optim.SGD": "torch.optim.AdamW has no argument '_target_'; use _component_",
    ".shared=1": "'.shared' is not a field path",
    "lora.r=1": "lora.r: unknown field 'r'; use rank",
    "lora.lora_target_linear=true": "use targets=[all-linear]",
}


@pytest.mark.quick_cases(17)
@pytest.mark.parametrize("args", MESSAGES)
def test_syntax_of_another_launcher_is_reported_once_with_advice(args: str) -> None:
    (message,) = mistakes("lora_finetune", "smollm2_135m_lora", *args.split())
    assert MESSAGES[args] in message


def test_field_missing_from_the_recipe_is_not_suggested(tmp_path: Path) -> None:
    (tmp_path / "plain_recipe.py").write_text(
        "from attrs import define\nfrom torchtune import config\n\n\n"
        "@define(kw_only=True)\nclass PlainConfig:\n    dataset: str = 'x'\n    num_epoch: int = 1\n\n\n"
        "@config.parse\ndef main(cfg: PlainConfig) -> None:\n    pass\n"
    )
    overrides = ("learning_rate=1", "num_epochs=3", "eval_dataset=3")
    rate, epochs, dataset = mistakes(f"{tmp_path}/plain_recipe.py", None, *overrides)
    assert rate.endswith("unknown field 'learning_rate'")
    assert epochs.endswith("unknown field 'num_epochs'; did you mean 'num_epoch'?")
    assert "use " not in dataset


def test_field_of_another_recipe_is_suggested_with_that_recipe(tmp_path: Path) -> None:
    yaml = tmp_path / "my.yaml"
    yaml.write_text("_base_: smollm2_135m_full\nlora_r: 8\npeft_config: {}\n")
    rank, adapters = mistakes("full_finetune", str(yaml))
    assert rank.endswith("unknown field 'lora_r'; use lora.rank in a config of the recipe lora_finetune")
    assert adapters.endswith(
        "unknown field 'peft_config'; use lora, the section of a lora_finetune config that describes the adapters"
    )
    (section,) = mistakes("full_finetune", "smollm2_135m_full", "lora.rank=8")
    assert section.endswith("unknown field 'lora'; only the recipe lora_finetune has this field")


def test_fields_listed_for_one_recipe_exist_only_in_that_recipe() -> None:
    classes = {name: load_recipe(name).config_class for name in recipe_names()}
    recipe_fields = {name: field_names(cls) for name, cls in classes.items() if cls}
    for field, recipe in _RECIPE_SPECIFIC_FIELDS.items():
        assert [name for name, names in recipe_fields.items() if field in names] == [recipe]


def test_hint_for_an_argument_is_shown_only_if_the_component_accepts_it() -> None:
    assert hint_for("lora_alpha", ["rank", "alpha"]) == "use alpha"
    assert hint_for("cutoff_len", ["source", "max_seq_len"]) == "use max_seq_len"
    assert hint_for("eval_dataset", ["dataset"]) is None
    assert hint_for("weird", FIELDS) is None


def test_hint_for_a_gitlab_hidden_key_suggests_a_key_that_begins_with_x(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "_base_: smollm2_135m_lora\n.shared: &shared {lr: 0.1}\noptimizer: *shared\n"
    )
    (message,) = mistakes("lora_finetune", str(tmp_path / "my.yaml"))
    assert message.endswith(
        "unknown field '.shared'; a key that only defines anchors must begin with x-, such as x-shared"
    )
