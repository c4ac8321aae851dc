"""`tune import` converts the original torchtune's datasets, validation and tokenizers."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_import import LORA, import_config
from tests.data.byte_tokenizer import ByteTokenizer
from tests.tune import Tune
from torchtune.config import instantiate


def with_dataset(*lines: str) -> str:
    """Return the LoRA config with a different dataset."""
    before, _, after = LORA.partition("dataset:\n")
    return before + "\n".join(["dataset:", *(f"  {line}" for line in lines)]) + after[after.index("\nseed") :]


SOURCE = ("source: json", "data_files: rows.json", "split: train")
DATASETS: dict[tuple[str, ...], dict[str, Any]] = {
    (
        "_component_: torchtune.datasets.instruct_dataset",
        *SOURCE,
        "column_map: {input: question, output: answer}",
    ): {
        "_component_": "torchtune.datasets.InstructDataset",
        "source": "rows.json",
        "split": "train",
        "columns": {"instruction": "question", "output": "answer"},
    },
    ("_component_: torchtune.datasets.instruct_dataset", *SOURCE, "new_system_prompt: Be brief."): {
        "_component_": "torchtune.datasets.InstructDataset",
        "source": "rows.json",
        "split": "train",
        "columns": {"instruction": "input", "output": "output"},
        "system": "Be brief.",
    },
    (
        "_component_: torchtune.datasets.instruct_dataset",
        *SOURCE,
        "template: torchtune.data.AlpacaInstructTemplate",
        "train_on_input: True",
    ): {
        "_component_": "torchtune.datasets.InstructDataset",
        "source": "rows.json",
        "split": "train",
        "template": "alpaca",
        "train_on_input": True,
    },
    (
        "_component_: torchtune.datasets.chat_dataset",
        *SOURCE,
        "conversation_column: turns",
        "conversation_style: sharegpt",
        "train_on_input: False",
    ): {
        "_component_": "torchtune.datasets.ChatDataset",
        "source": "rows.json",
        "split": "train",
        "column": "turns",
    },
    (
        "_component_: torchtune.datasets.chat_dataset",
        "source: me/rows",
        "revision: v1",
        "train_on_input: True",
    ): {
        "_component_": "torchtune.datasets.ChatDataset",
        "source": "me/rows",
        "load_options": {"revision": "v1"},
        "train_on": "everything",
    },
    ("_component_: torchtune.datasets.text_completion_dataset", *SOURCE, "column: page", "add_eos: False"): {
        "_component_": "torchtune.datasets.TextCompletionDataset",
        "source": "rows.json",
        "split": "train",
        "column": "page",
        "add_eos": False,
        "truncate": "right",
    },
    ("_component_: torchtune.datasets.samsum_dataset", "packed: True"): {
        "_component_": "torchtune.datasets.InstructDataset",
        "source": "Samsung/samsum",
        "columns": {"instruction": "dialogue", "output": "summary"},
    },
    ("_component_: torchtune.datasets.wikitext_dataset", "subset: wikitext-2-v1", "packed: True"): {
        "_component_": "torchtune.datasets.TextCompletionDataset",
        "source": "EleutherAI/wikitext_document_level",
        "column": "page",
        "load_options": {"name": "wikitext-2-v1"},
    },
    ("_component_: torchtune.datasets.cnn_dailymail_articles_dataset", "packed: True"): {
        "_component_": "torchtune.datasets.TextCompletionDataset",
        "source": "ccdv/cnn_dailymail",
        "column": "article",
        "load_options": {"name": "3.0.0"},
    },
    ("_component_: torchtune.datasets.slimorca_dataset",): {
        "_component_": "torchtune.datasets.SlimOrcaDataset"
    },
    (
        "- {_component_: torchtune.datasets.alpaca_dataset, packed: True}",
        "- {_component_: torchtune.datasets.grammar_dataset, packed: True}",
    ): {
        "_component_": "torchtune.datasets.ConcatDataset",
        "datasets": [
            {"_component_": "torchtune.datasets.AlpacaDataset", "max_seq_len": 1024},
            {
                "_component_": "torchtune.datasets.InstructDataset",
                "source": "liweili/c4_200m",
                "columns": {"instruction": "input", "output": "output"},
                "max_seq_len": 1024,
            },
        ],
    },
}


@pytest.mark.parametrize("lines", DATASETS)
def test_original_datasets_are_converted(lines: tuple[str, ...], tune: Tune, tmp_path: Path) -> None:
    new, out, err = import_config(tune, tmp_path, with_dataset(*lines))
    expected = dict(DATASETS[lines])
    if "datasets" not in expected:
        expected["max_seq_len"] = 1024
    assert new["dataset"] == expected
    assert new.get("loading") == (
        {"packing": {"length": 1024}} if "packed: True" in " ".join(lines) else None
    )
    assert "not converted" not in err
    assert "; run: tune lora_finetune --config" in out


ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "Sky?", "answer": "blue"}]
TURNS = [{"turns": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]}]
TEXT = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>"


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (
            (
                "_component_: torchtune.datasets.instruct_dataset",
                "column_map: {input: question, output: answer}",
            ),
            ROWS,
        ),
        (
            (
                "_component_: torchtune.datasets.chat_dataset",
                "conversation_column: turns",
                "conversation_style: sharegpt",
            ),
            TURNS,
        ),
    ],
)
def test_imported_dataset_reads_the_same_rows_as_the_original(
    lines: tuple[str, ...], rows: list[Any], tune: Tune, tmp_path: Path
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    source = ("source: json", f"data_files: {tmp_path}/rows.json")
    new, *_ = import_config(tune, tmp_path, with_dataset(*lines, *source))
    tokenizer = ByteTokenizer()
    example = instantiate(new["dataset"], tokenizer)[0]
    assert tokenizer.decode(example.tokens).startswith(TEXT)
    assert tokenizer.decode([label for label in example.labels if label >= 0]) == "2<|im_end|>"


def test_dataset_arguments_without_an_equivalent_are_reported(tune: Tune, tmp_path: Path) -> None:
    lines = (
        "- {_component_: torchtune.datasets.chat_dataset, source: me/a, conversation_style: weird, filter_fn: f}",
        "- {_component_: torchtune.datasets.multimodal.the_cauldron_dataset}",
        "- {_component_: torchtune.datasets.instruct_dataset, source: me/b, column_map: 3, template: mine.Template}",
    )
    new, _, err = import_config(tune, tmp_path, with_dataset(*lines))
    assert [part["source"] for part in new["dataset"]["datasets"]] == ["me/a", "me/b"]
    assert "not converted: dataset.0.conversation_style: 'weird' is not supported" in err
    assert "not converted: dataset.0.filter_fn: 'f' has no equivalent" in err
    assert "dataset.1: torchtune.datasets.multimodal.the_cauldron_dataset reads images" in err
    assert "not converted: dataset.2.column_map: 3 has no equivalent" in err
    assert "not converted: dataset.2.template: mine.Template has no equivalent" in err


VALIDATION = """
dataset_val:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  split: train[95%:]
batch_size_val: ${batch_size}
"""


def test_validation_is_imported_only_if_enabled_in_the_original(tune: Tune, tmp_path: Path) -> None:
    new, _, err = import_config(tune, tmp_path, f"{LORA}{VALIDATION}run_val_every_n_steps: 50\n")
    assert new["validation"] == {
        "dataset": {
            "_component_": "torchtune.datasets.AlpacaDataset",
            "use_clean": True,
            "split": "train[95%:]",
            "max_seq_len": 1024,
        },
        "every_n_steps": 50,
        "at_start": False,
        "keep_best": False,
        "batch_size": "${batch_size}",
    }
    assert err == ""
    assert tune("validate", "lora_finetune", "--config", str(tmp_path / "new.yaml")).out.startswith("ok: ")
    (tmp_path / "new.yaml").unlink()
    new, _, err = import_config(tune, tmp_path, f"{LORA}{VALIDATION}run_val_every_n_steps: null\n")
    assert "validation" not in new
    assert err == ""


@pytest.mark.parametrize(
    ("original", "converted", "file"),
    [
        (
            "{_component_: torchtune.models.llama3.llama3_tokenizer, path: F/original/tokenizer.model}",
            "llama3.llama3",
            "",
        ),
        (
            "{_component_: torchtune.models.qwen2.qwen2_tokenizer, path: F/vocab.json, merges_file: F/merges.txt}",
            "qwen2.qwen2",
            "",
        ),
        (
            "{_component_: torchtune.models.qwen2_5.qwen2_5_tokenizer, path: F/vocab.json, merges_file: F/merges.txt}",
            "qwen2.qwen2",
            "",
        ),
        (
            "{_component_: torchtune.models.qwen3.qwen3_tokenizer, path: F/vocab.json, merges_file: F/merges.txt}",
            "qwen3.qwen3",
            "",
        ),
        (
            "{_component_: torchtune.models.phi3.phi3_mini_tokenizer, path: F/tokenizer.model}",
            "phi3.phi3",
            "",
        ),
        (
            "{_component_: torchtune.models.phi4.phi4_tokenizer, vocab_path: F/vocab.json, merges_path: F/merges.txt}",
            "phi3.phi3",
            "vocab.json",
        ),
        (
            "{_component_: torchtune.models.gemma2.gemma2_tokenizer, path: F/tokenizer.model}",
            "gemma.gemma",
            "",
        ),
        ("{_component_: torchtune.models.gemma.gemma_tokenizer, path: F/tokenizer.model}", "gemma.gemma", ""),
        (
            "{_component_: torchtune.models.mistral.mistral_tokenizer, path: F/tokenizer.model}",
            "mistral.mistral",
            "",
        ),
    ],
)
def test_original_tokenizers_are_converted(
    original: str, converted: str, file: str, tune: Tune, tmp_path: Path
) -> None:
    overrides = ("checkpointer.checkpoint_dir=F", f"tokenizer={original}")
    new, _, err = import_config(tune, tmp_path, LORA, *overrides)
    path = file or yaml.safe_load(original)["path"].rpartition("/")[2]
    assert new["tokenizer"] == {
        "_component_": f"torchtune.models.{converted}_tokenizer",
        "path": f"${{tokenizer_directory}}/{path}",
    }
    assert new.get("tokenizer_directory", "F") == ("F/original" if "original" in original else "F")
    assert err == ""


def test_tokenizer_arguments_without_an_equivalent_are_reported(tune: Tune, tmp_path: Path) -> None:
    original = (
        "tokenizer={_component_: torchtune.models.qwen2_5.qwen2_5_tokenizer, path: F/vocab.json, merges_file: G/m.txt,"
        " special_tokens_path: F/s.json, prompt_template: mine.Template, truncation_type: left, max_seq_len: 9}"
    )
    new, _, err = import_config(tune, tmp_path, LORA, "checkpointer.checkpoint_dir=F", original)
    assert (new["dataset"]["truncate"], new["dataset"]["max_seq_len"]) == ("left", 9)
    for part in (
        "merges_file: merges are read from the folder of vocab.json",
        "special_tokens_path: special tokens are read from the tokenizer's folder",
        "prompt_template: 'mine.Template' has no equivalent",
    ):
        assert f"not converted: tokenizer.{part}" in err


def test_vision_models_have_no_equivalent(tune: Tune, tmp_path: Path) -> None:
    overrides = (
        "model={_component_: torchtune.models.llama3_2_vision.lora_llama3_2_vision_11b, lora_attn_modules: [q_proj]}",
        "tokenizer={_component_: torchtune.models.llama3_2_vision.llama3_2_vision_transform, path: F/t.model}",
    )
    _, _, err = import_config(tune, tmp_path, LORA, *overrides)
    assert "llama3_2_vision_11b reads images, but only text is supported" in err
    assert "llama3_2_vision_transform reads images, but only text is supported" in err
