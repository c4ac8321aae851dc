"""The configs `lora` and `full` work with any model folder and any supported row format."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.test_families import FAMILIES, SMALL
from tests.models.tiny import tiny_tokenizer, tokenizer_config, write
from tests.tune import Tune
from torchtune.datasets import ChatDataset, InstructDataset, TextCompletionDataset, auto_dataset
from torchtune.formats import architecture_from_hf, save_hf_folder
from torchtune.modules import Decoder
from torchtune.tokenizers import auto_tokenizer

INSTRUCT = "dataset=torchtune.datasets.InstructDataset"
TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]
ROW_FORMATS: dict[str, tuple[type, dict[str, Any]]] = {
    "messages": (ChatDataset, {"messages": TURNS}),
    "ShareGPT": (
        ChatDataset,
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Nobody."}]},
    ),
    "prompt and completion": (ChatDataset, {"prompt": "Who?", "completion": "Nobody."}),
    "Alpaca": (InstructDataset, {"instruction": "Who?", "input": "", "output": "Nobody."}),
    "Alpaca without input": (InstructDataset, {"instruction": "Who?", "output": "Nobody."}),
    "text": (TextCompletionDataset, {"text": "Nobody knows who."}),
}


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change the working directory to a folder outside the clone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(row: dict[str, Any], count: int = 5, name: str = "rows.jsonl") -> str:
    Path(name).write_text("\n".join([json.dumps(row)] * count))
    return name


def write_model(
    folder: Path, family: str = "llama2", *, chat_template: bool = True, max_seq_len: int = 128
) -> str:
    import transformers

    name, changes = FAMILIES[family]
    length_limit = {"n_positions" if name == "GPT2" else "max_position_embeddings": max_seq_len}
    values = {**({} if name == "GPT2" else SMALL), **changes, "vocab_size": 300, **length_limit}
    settings = {key: value for key, value in values.items() if value is not ...}
    config = getattr(transformers, f"{name}Config")(**settings)
    torch.manual_seed(0)
    model = Decoder(architecture_from_hf(json.loads(config.to_json_string())))
    tokenizer_settings = {
        key: v for key, v in tokenizer_config().items() if chat_template or key != "chat_template"
    }
    tokenizer = write(folder.with_name("tokenizer"), tokenizer_config__json=json.dumps(tokenizer_settings))
    tiny_tokenizer().save(str(tokenizer / "tokenizer.json"))
    save_hf_folder(model, folder, tokenizer_directory=tokenizer)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name == "gemma3" else pytest.mark.slow) for name in FAMILIES],
)
def test_lora_config_trains_a_model_of_any_family_on_chats(family: str, tune: Tune, tmp_path: Path) -> None:
    overrides = [
        f"model_directory={write_model(tmp_path / 'model', family)}",
        "device=cpu",
        "loading.workers=0",
    ]
    rows = write_rows({"messages": TURNS})
    result = tune("lora_finetune", "--config", "lora", *overrides, f"dataset.source={rows}", "max_steps=1")
    assert result.status == 0, result.err
    assert (tmp_path / "runs/lora/final/adapter_config.json").is_file()
    assert "4 rows" in result.err + result.out  # one is held out
    assert "1 held-out row" in result.err + result.out


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_auto_dataset_selects_the_dataset_class_by_row_format(row_format: str, tmp_path: Path) -> None:
    tokenizer = auto_tokenizer(write_model(tmp_path / "model"))
    dataset_class, row = ROW_FORMATS[row_format]
    dataset: Any = auto_dataset(tokenizer, write_rows(row))
    expected: Any = dataset_class(tokenizer, "rows.jsonl")
    assert type(dataset).__name__ == dataset_class.__name__
    assert len(dataset) == 5
    assert dataset[3] == expected[3]


def test_instruct_rows_use_the_alpaca_template_if_the_tokenizer_has_no_chat_template(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = auto_tokenizer(write_model(tmp_path / "model", chat_template=False))
    rows = write_rows({"instruction": "Who?", "output": "Nobody."})
    assert auto_dataset(tokenizer, rows)[0] == InstructDataset(tokenizer, rows, template="alpaca")[0]
    assert "no chat template" in caplog.text
    with pytest.raises(ValueError, match=r"the tokenizer has no chat template; set tokenizer\.chat_template"):
        auto_dataset(tokenizer, write_rows({"messages": TURNS}))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (
            {"question": "a", "answer": "b"},
            "set 'dataset.columns={instruction: question, output: answer}'",
        ),
        (
            {"query": "a", "response": "b"},
            "set 'dataset.columns={instruction: query, output: response}'",
        ),
        ({"first": "a", "second": "b"}, "'dataset.columns={instruction: NAME, output: NAME}'"),
        ({"dialogue": TURNS}, "dataset=torchtune.datasets.ChatDataset dataset.column=dialogue"),
        ({"content": "a"}, "dataset=torchtune.datasets.TextCompletionDataset dataset.column=content"),
        ({"chosen": "a", "rejected": "b"}, "use torchtune.datasets.PreferenceDataset in your own recipe"),
    ],
)
def test_unknown_row_layout_is_reported_with_the_override_that_fixes_it(
    row: dict[str, Any], advice: str, tune: Tune, tmp_path: Path
) -> None:
    overrides = [f"model_directory={write_model(tmp_path / 'model')}", f"dataset.source={write_rows(row)}"]
    call = ["lora_finetune", "--config", "lora", *overrides, "device=cpu", "max_steps=1"]
    for command in ("run", "validate"):
        result = tune(command, *call)
        assert result.status == 2
        assert advice in result.err
    if "dataset" in advice.removeprefix("set ")[:8] and "NAME" not in advice:
        assert tune("validate", *call, *shlex.split(advice.removeprefix("set "))).status == 0


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "config"), [("lora_finetune", "lora"), ("full_finetune", "full")])
def test_every_command_works_with_the_configs_for_any_model(
    recipe: str, config: str, tune: Tune, tmp_path: Path
) -> None:
    (tmp_path / "my models").mkdir()
    folder = write_model(tmp_path / "my models/tiny")
    rows = write_rows(ROW_FORMATS["Alpaca"][1])
    call = [recipe, "--config", config, f"model_directory={folder}", f"dataset.source={rows}", "device=cpu"]
    assert config in tune("ls").out
    assert tune("validate", *call).out.startswith("ok: ")
    assert "example 1 of 4" in tune("data", *call).out
    assert f"source: {rows}" in tune("show", *call).out
    (tmp_path / "frozen.yaml").write_text(tune("export", *call).out)
    assert "${required}" not in (tmp_path / "frozen.yaml").read_text()
    result = tune(recipe, "--config", "frozen.yaml", "max_steps=1")
    assert result.status == 0, result.err
    assert tune("cp", config, "mine.yaml").status == tune("cp", config, f"my_{config}.py").status == 0
    overrides = [*call[3:], "max_steps=1", "output_dir=runs/copy"]
    assert tune(recipe, "--config", "mine.yaml", *overrides).status == 0
    assert tune("validate", recipe, "--config", f"my_{config}.py", *overrides).status == 0


@pytest.mark.parametrize(
    ("recipe", "config"),
    [("lora_finetune", "lora"), pytest.param("full_finetune", "full", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("command", ["run", "validate", "data", "show", "export"])
def test_missing_required_fields_are_listed_with_the_overrides_that_set_them(
    recipe: str, config: str, command: str, tune: Tune, tmp_path: Path
) -> None:
    result = tune(command, recipe, "--config", config)
    assert result.status == 2
    head, *mistakes = result.err.splitlines()
    assert head.startswith("2 mistakes in the config of ")
    folder, source = (m.partition(": ")[2] for m in mistakes)
    assert folder == (
        "model_directory: required (a path or null); set model_directory=..."
        " (Hugging Face folder to load the weights from; null: random weights)"
    )
    assert source.startswith(
        "dataset.source: required (a path or a list of mappings); set dataset.source=..."
    )
    assert "(A data file (.json, .jsonl" in source
    assert not any(tmp_path.iterdir())
    with_source = tune(command, recipe, "--config", config, "dataset.source=rows.jsonl")
    assert with_source.status == 2
    assert len(with_source.err.splitlines()) == 2


def test_field_named_required_can_be_referenced() -> None:
    from torchtune.config.model import resolve_tree

    tree = {"required": 3, "a": "${required}"}
    assert resolve_tree(tree) == ({"required": 3, "a": 3}, [])
    resolved, mistakes = resolve_tree({"a": "${required}", "b": "x${a}", "c": {"d": ["${required}"]}})
    assert [(m.kind, m.path) for m in mistakes if m.kind != "consequence"] == [
        ("missing", ("a",)),
        ("missing", ("c", "d", 0)),
    ]
    assert resolved["a"] == "${required}"


INVALID_MODEL_DIRECTORIES = {
    "nowhere": "folder nowhere does not exist (relative paths are resolved against ",
    "owner/some-model": "download it with `tune download owner/some-model --output-dir models/some-model`",
    "tiny.gguf": "tiny.gguf is a GGUF file; convert it to a model folder with `tune convert tiny.gguf models/tiny`",
    "rows.jsonl": "rows.jsonl is a file, but a model is a folder; pass the folder that contains the file",
    "meta": "which is in Meta's format; convert it with `tune convert meta models/meta-hf`",
    "quantized": "convert one with `tune convert quantized/a.Q4.gguf models/quantized-hf`",
    "cache": "which is a folder of the Hugging Face cache; use cache/snapshots/0123",
    "empty": "there is no config.json in empty; expected the folder of a Hugging Face model",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "directory",
    [
        name
        if name in {"nowhere", "owner/some-model", "tiny.gguf"}
        else pytest.param(name, marks=pytest.mark.slow)
        for name in INVALID_MODEL_DIRECTORIES
    ],
)
def test_invalid_model_directory_is_reported_as_one_mistake_with_a_fix(
    directory: str, tune: Tune, tmp_path: Path
) -> None:
    rows = write_rows({"messages": TURNS})
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    for file in ("meta/params.json", "quantized/a.Q4.gguf", "cache/snapshots/0123/config.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("{}")
    (tmp_path / "empty").mkdir()
    call = ["full_finetune", "--config", "full", f"dataset.source={rows}", "device=cpu", "max_steps=1"]
    result = tune(*call, f"model_directory={directory}")
    assert result.status == 2
    assert len(result.err.splitlines()) == 2
    assert "  model_directory: " in result.err
    assert INVALID_MODEL_DIRECTORIES[directory] in result.err
    # The failed run has left nothing that must be removed.
    repeated = tune(*call, f"model_directory={write_model(tmp_path / 'model')}")
    assert repeated.status == 0, repeated.err


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["owner/rows", "tatsu-lab/alpaca"])
def test_hub_dataset_without_network_is_reported_with_the_download_command(
    name: str, tune: Tune, tmp_path: Path
) -> None:
    overrides = [f"model_directory={write_model(tmp_path / 'model')}", f"dataset.source={name}", "device=cpu"]
    result = tune("lora_finetune", "--config", "lora", *overrides)
    assert result.status == 2
    local = f"data/{name.partition('/')[2]}"
    assert f"`hf download {name} --repo-type dataset --local-dir {local}` and use that folder" in result.err
