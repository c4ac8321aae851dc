"""`hf_decoder` builds a model from a folder's config.json, in Python and in a torchtune config."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from tests.tune import Tune
from torchtune.formats import hf_config, hf_decoder, save_hf_folder

GELU = {"hidden_activation": "gelu_pytorch_tanh"}

# Settings of config.json that the decoder does not support, with their error messages.
UNSUPPORTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another architecture": (
        "llama",
        {"model_type": "mamba"},
        "model_type 'mamba' is not supported; expected one of llama",
    ),
    "activation": ("llama", {"hidden_act": "relu"}, "hidden_act is 'relu'; only 'silu' is supported"),
    "biases": ("llama", {"attention_bias": True}, "attention_bias is True; only False is supported"),
    "yarn": (
        "llama",
        {"rope_scaling": {"type": "yarn", "factor": 2}},
        "rotary embeddings of type 'yarn'",
    ),
    "longrope": ("phi3", {"rope_scaling": {"type": "longrope"}}, "rotary embeddings of type 'longrope'"),
    "partial rotary": (
        "phi3",
        {"partial_rotary_factor": 0.75},
        "a part of each head (partial_rotary_factor) are not",
    ),
    "sliding window in some layers": ("qwen2", {"use_sliding_window": True}, "use_sliding_window is true"),
    "bidirectional": (
        "gemma3_text",
        {"use_bidirectional_attention": True},
        "use_bidirectional_attention is True",
    ),
    "pattern": (
        "gemma3_text",
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4, **GELU},
        "a pattern that is not supported",
    ),
    "chunks": (
        "gemma2",
        {"layer_types": ["chunked_attention"] * 2, **GELU},
        "layers of kind 'chunked_attention'",
    ),
    "gemma's activation": ("gemma", {"hidden_activation": "silu"}, "the activation is 'silu'"),
    "gemma's hidden_act": ("gemma", {"hidden_act": "relu"}, "the activation is 'relu'"),
    "exact gelu": ("gemma2", {"hidden_activation": "gelu"}, "the activation is 'gelu'"),
    "missing size": ("llama", {"hidden_size": None}, "key 'hidden_size' is missing"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(hf_config(tiny_smollm2())))
    return tmp_path


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_setting_is_rejected(name: str, folder: Path) -> None:
    family, change, message = UNSUPPORTED[name]
    config = {**json.loads((folder / "config.json").read_text()), "model_type": family, **change}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: ") as caught:
        hf_decoder(str(folder))
    assert message in str(caught.value)


def test_folder_builds_the_saved_architecture(folder: Path) -> None:
    with torch.device("meta"):
        assert hf_decoder(str(folder)).architecture == tiny_smollm2().architecture
        assert hf_decoder(str(folder), max_seq_len=16).architecture.max_seq_len == 16


def test_config_builds_its_model_from_the_folder(folder: Path, tune: Tune) -> None:
    tokenizer = write(
        folder / "tokenizer",
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
    )
    save_hf_folder(tiny_smollm2(), folder / "model", tokenizer_directory=tokenizer)
    directory = f"model_directory={folder / 'model'}"
    args = ("validate", "full_finetune", "--config", "smollm2_135m_full", directory, "validation=null")
    model = ("model=torchtune.formats.hf_decoder", "model.path=${model_directory}")
    assert tune(*args, *model).out.startswith("ok: ")
    missing = tune(*args, "model=torchtune.formats.hf_decoder", "model.path=none")
    assert missing.status == 2
    assert "--override model.path=none: model.path: folder none does not exist (relative" in missing.err
