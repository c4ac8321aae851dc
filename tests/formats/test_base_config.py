"""Training, merging and converting preserve the keys of a base's config.json, except those that they change."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes import full_finetune
from tests.data.byte_tokenizer import ByteTokenizer
from tests.formats.test_convert import write_adapter
from tests.models.test_families import FAMILIES, SMALL
from tests.models.tiny import tiny_tokenizer, tokenizer_config, write
from tests.recipes.parts import full_config
from torchtune.config import Trust, lazy, only_trusting
from torchtune.formats import (
    architecture_from_hf,
    convert,
    hf_config,
    hf_decoder,
    load_hf_weights,
    save_hf_folder,
)
from torchtune.modules import Decoder
from torchtune.training import Validation

CUSTOM = {
    "my_lab": {"run": 7, "notes": None},
    "initializer_range": 0.0123,
    "use_cache": False,
    "architectures": ["MyForCausalLM"],
    "transformers_version": "4.31.0",
    "auto_map": {"AutoConfig": "configuration_mine.MyConfig"},
}
CHANGED = {"torch_dtype", "dtype", "transformers_version", "auto_map"}


def write_base(name: str, folder: Path, **keys: Any) -> Path:
    """Write a small transformers model with a tokenizer and extra keys in its config.json."""
    import transformers

    family, change = FAMILIES[name]
    settings = change if family == "GPT2" else {**SMALL, **change}
    sizes = {k: v for k, v in settings.items() if v is not ...} | {"vocab_size": 300}
    model_config = getattr(transformers, f"{family}Config")(**sizes)
    build_model: Any = transformers.AutoModelForCausalLM.from_config
    build_model(model_config).to(torch.bfloat16).save_pretrained(folder)
    config = {**read_json(folder), **CUSTOM, **keys}
    return write(
        folder,
        config__json=json.dumps(config),
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
        chat_template__jinja="{{ messages[0].content }}<|im_end|>",
        generation_config__json=json.dumps({"temperature": 0.3, "eos_token_id": 2, "top_k": 7}),
    )


def read_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / name).read_text())
    return values


def preserved_keys(folder: Path) -> dict[str, Any]:
    special = {"bos_token_id", "eos_token_id", "pad_token_id"}
    return {k: v for k, v in read_json(folder).items() if k not in CHANGED | special}


def load_model(folder: Path, max_seq_len: int | None = None) -> Decoder:
    model = hf_decoder(str(folder), max_seq_len)
    load_hf_weights(model, folder)
    return model


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("name", [name for name in FAMILIES if "gpt2" not in name])
def test_shorter_max_seq_len_is_not_written(tmp_path: Path, name: str) -> None:
    base = write_base(name, tmp_path / "base")
    save_hf_folder(load_model(base, 8), tmp_path / "final", tokenizer_directory=base, base=base)
    assert preserved_keys(tmp_path / "final") == preserved_keys(base)
    config = read_json(tmp_path / "final")
    assert (config["torch_dtype"], config["eos_token_id"]) == ("float32", 2)
    assert "transformers_version" not in config
    assert "auto_map" not in config  # the code that it refers to is not copied
    assert architecture_from_hf(config) == architecture_from_hf(read_json(base))


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", FAMILIES)
def test_converting_and_merging_preserve_every_key(tmp_path: Path, name: str) -> None:
    base = write_base(name, tmp_path / "base")
    convert(base, tmp_path / "converted")
    assert preserved_keys(tmp_path / "converted") == preserved_keys(base)
    assert read_json(tmp_path / "converted")["torch_dtype"] == "bfloat16"
    convert(write_adapter(tmp_path / "adapter", base), tmp_path / "merged", dtype=torch.float32)
    assert preserved_keys(tmp_path / "merged") == preserved_keys(base)
    assert read_json(tmp_path / "merged")["torch_dtype"] == "float32"
    for file in ("generation_config.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (tmp_path / "merged" / file).read_bytes() == (base / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama3_1", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16, "written_by": "me"}}),
        ("mistral", {"sliding_window": 5, "head_dim": None}),
        ("gemma3", {"sliding_window_pattern": 6, "cache_implementation": "hybrid"}),
        ("phi3", {"original_max_position_embeddings": 9, "rope_scaling": None, "embd_pdrop": 0.1}),
    ],
)  # fmt: skip
def test_keys_with_several_spellings_are_preserved(tmp_path: Path, name: str, keys: dict[str, Any]) -> None:
    base = write_base(name, tmp_path / "base", **keys)
    save_hf_folder(load_model(base, 8), tmp_path / "final", base=base)
    assert {key: read_json(tmp_path / "final")[key] for key in keys} == keys


@pytest.mark.parametrize("spelling", ["torch_dtype", "dtype"])
def test_dtype_key_matches_the_weights(tmp_path: Path, spelling: str) -> None:
    from transformers import AutoModelForCausalLM

    base = write_base("llama3_1", tmp_path / "base")
    config = {k: v for k, v in read_json(base).items() if k not in ("torch_dtype", "dtype")}
    write(base, config__json=json.dumps({**config, spelling: "bfloat16"}))
    save_hf_folder(load_model(base).to(torch.float32), tmp_path / "final", base=base)
    assert read_json(tmp_path / "final")[spelling] == "float32"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "final", dtype="auto").dtype == torch.float32


def test_changed_sizes_are_written(tmp_path: Path) -> None:
    base = write_base("llama3_1", tmp_path / "base")
    model = load_model(base)
    resized = Decoder(model.architecture.evolve(vocab_size=310, max_seq_len=4096))
    config = hf_config(resized, read_json(base))
    assert (config["vocab_size"], config["max_position_embeddings"]) == (310, 4096)
    assert (config["my_lab"], config["architectures"]) == (CUSTOM["my_lab"], CUSTOM["architectures"])


def test_replacing_the_tokenizer_preserves_the_generation_settings_of_the_base(tmp_path: Path) -> None:
    base = write_base("llama3_1", tmp_path / "base")
    tokenizer = write(
        tmp_path / "tokenizer",
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
        generation_config__json=json.dumps({"temperature": 0.9, "eos_token_id": [2, 0]}),
    )
    save_hf_folder(load_model(base), tmp_path / "final", tokenizer_directory=tokenizer, base=base)
    expected = {"temperature": 0.3, "eos_token_id": [2, 0], "top_k": 7}
    assert read_json(tmp_path / "final", "generation_config.json") == expected


def test_final_and_best_checkpoints_preserve_the_base_config(tmp_path: Path) -> None:
    base = write_base("llama3_1", tmp_path / "base", max_position_embeddings=512)
    cfg = full_config(
        tmp_path,
        "run",
        model=lazy(hf_decoder, path=str(base), max_seq_len=256),
        model_directory=str(base),
        tokenizer_directory=str(base),
        tokenizer=lazy(ByteTokenizer),
        validation=Validation(fraction=0.4),
        max_steps=1,
    )
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        full_finetune.main(cfg)
    for name in ("final", "best"):
        assert preserved_keys(tmp_path / "run" / name) == preserved_keys(base)
        assert read_json(tmp_path / "run" / name, "generation_config.json") == read_json(
            base, "generation_config.json"
        )
