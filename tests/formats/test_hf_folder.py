"""Models saved by torchtune or transformers as Hugging Face folders produce the same logits in both."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats.float64 import float64_transformers
from tests.models.tiny import random_tokens, tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from tests.tolerance import FLOAT64, assert_near
from torchtune.formats import architecture_from_hf, hf_config, load_hf_weights, save_hf_folder
from torchtune.models.llama2 import llama2_7b
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, add_lora


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_hf_folder(tiny_smollm2(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("tied_embeddings", [False, True])
def test_logits_and_gradients_match_transformers(tmp_path: Path, *, tied_embeddings: bool) -> None:
    from transformers import AutoModelForCausalLM

    model, tokens = tiny_smollm2(tied_embeddings=tied_embeddings), random_tokens(2, 9)
    save_hf_folder(model, tmp_path / "model")
    with float64_transformers():
        transformers_model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert transformers_model.dtype == torch.float64
        expected = transformers_model(tokens).logits
        expected.square().mean().backward()
    logits = model(tokens)
    logits.square().mean().backward()
    assert_near(logits, expected, FLOAT64)
    for name, parameter in transformers_model.named_parameters():
        torchtune_parameter = model.get_parameter(name.removeprefix("model."))
        assert torchtune_parameter.grad is not None
        assert parameter.grad is not None
        assert_near(torchtune_parameter.grad, parameter.grad, FLOAT64)


@pytest.mark.parametrize("on_meta", [False, True])
@pytest.mark.parametrize("tied_embeddings", [False, True])
def test_saved_model_loads_bit_for_bit(tmp_path: Path, *, tied_embeddings: bool, on_meta: bool) -> None:
    model = tiny_smollm2(tied_embeddings=tied_embeddings)
    save_hf_folder(model, tmp_path / "model")
    with torch.device("meta" if on_meta else "cpu"):
        other = Decoder(model.architecture).double()
    load_hf_weights(other, tmp_path / "model")
    torch.testing.assert_close(other(random_tokens(2, 9)), model(random_tokens(2, 9)), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in other.parameters())


@pytest.mark.parametrize("on_meta", [False, True])
def test_weights_are_cast_to_the_model_dtype(folder: Path, *, on_meta: bool) -> None:
    with torch.device("meta" if on_meta else "cpu"):
        model = Decoder(tiny_smollm2().architecture).bfloat16()
    load_hf_weights(model, folder)
    torch.testing.assert_close(model.state_dict(), tiny_smollm2().bfloat16().state_dict(), rtol=0, atol=0)


def test_weights_load_into_an_adapted_model(folder: Path) -> None:
    model = Decoder(tiny_smollm2().architecture).double()
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    load_hf_weights(model, folder)
    assert_near(model(random_tokens(1, 5)), tiny_smollm2()(random_tokens(1, 5)), FLOAT64)


def test_shards_are_read_through_their_index(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"shard-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    write(folder, model__safetensors__index__json=json.dumps({"weight_map": files}))
    model = Decoder(tiny_smollm2().architecture).double()
    load_hf_weights(model, folder)
    torch.testing.assert_close(model.state_dict(), tiny_smollm2().state_dict(), rtol=0, atol=0)
    (folder / "shard-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no shard-1.safetensors in"):
        load_hf_weights(model, folder)


def test_large_model_is_written_in_shards_that_transformers_reads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_smollm2()
    save_hf_folder(model, tmp_path / "model", shard_bytes=100_000)
    files = sorted(file.name for file in (tmp_path / "model").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    transformers_model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    reloaded = Decoder(model.architecture).double()
    load_hf_weights(reloaded, tmp_path / "model")
    torch.testing.assert_close(reloaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(transformers_model.lm_head.weight, model.head_weight, rtol=0, atol=0)


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_are_read(folder: Path, shards: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(tensors)}
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
        write(folder, pytorch_model__bin__index__json=json.dumps({"weight_map": files}))
    model = Decoder(tiny_smollm2().architecture).double()
    load_hf_weights(model, folder)
    torch.testing.assert_close(model.state_dict(), tiny_smollm2().state_dict(), rtol=0, atol=0)


class HostilePickle:
    """An object that creates a folder when it is unpickled, as a hostile checkpoint could."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.trace,)


def test_pickled_code_is_rejected_and_does_not_run(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": HostilePickle(str(folder / "trace"))}, folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError,
        match=r"also contains posix.mkdir, which may be code and is therefore not run; download",
    ):
        load_hf_weights(tiny_smollm2(), folder)
    assert not (folder / "trace").exists()
    (folder / "pytorch_model.bin").write_bytes(
        pickle.dumps({"model.norm.weight": HostilePickle(str(folder / "trace"))})
    )
    with pytest.raises(
        ValueError, match="is damaged, or contains objects other than tensors, which are not loaded"
    ):
        load_hf_weights(tiny_smollm2(), folder)
    assert not (folder / "trace").exists()
    (folder / "pytorch_model.bin").write_bytes(b"PK but no zip")
    with pytest.raises(
        ValueError, match="is damaged, or contains objects other than tensors, which are not loaded"
    ):
        load_hf_weights(tiny_smollm2(), folder)
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is not a checkpoint; expected a dict of tensors by name"):
        load_hf_weights(tiny_smollm2(), folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "expected a map of tensors to files"),
        ({"weight_map": {"a": 3}}, "expected a map of tensors to files"),
        ({"weight_map": {"a": "../other/model.safetensors"}}, "expected a file in the same folder"),
        (
            {"weight_map": {"nothing.like.it": "shard.safetensors"}},
            "lists nothing.like.it, which no file",
        ),
    ],
)
def test_invalid_index_is_rejected(folder: Path, index: dict[str, Any], message: str) -> None:
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    write(folder, model__safetensors__index__json=json.dumps(index))
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json") as caught:
        load_hf_weights(tiny_smollm2(), folder)
    assert message in str(caught.value)


def test_redundant_tensors_in_old_checkpoints_are_ignored(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, folder / "model.safetensors")
    load_hf_weights(tiny_smollm2(), folder)
    save_file({**tensors, "lm_head.weight": torch.zeros(300, 64)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected lm_head.weight"):
        load_hf_weights(tiny_smollm2(), folder)


def _remove_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "layers.1" in name]:
        del tensors[name]


def _reshape_norm(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = torch.zeros(65)


def _add_bias(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove_layer, r"missing model.layers.1.input_layernorm.weight, .* and 6 more"),
        (_reshape_norm, r"model.norm.weight has shape \[65\], expected \[64\]"),
        (_add_bias, r"unexpected model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_weights_of_a_different_model_are_rejected(folder: Path, change: Any, message: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"the weights in .* do not match the model: {message}"):
        load_hf_weights(tiny_smollm2(), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": 1e4}, "rope_base is 10000.0, expected 100000.0"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_base is 5.0, expected "),
        ({"num_attention_heads": 8, "head_dim": None}, "num_heads is 8, expected 4; head_dim is 8"),
        ({"vocab_size": 400}, "vocab_size is 400, expected 300"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; expected one of llama"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            "embeddings of type 'yarn' are not supported",
        ),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
    ],
)
def test_config_of_a_different_model_is_rejected(folder: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    write(folder, config__json=json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        load_hf_weights(tiny_smollm2(), folder)


def test_architecture_round_trips_through_both_config_layouts() -> None:
    from transformers import LlamaConfig

    with torch.device("meta"):
        models = tiny_smollm2(), llama2_7b(), smollm2(num_layers=1, head_dim=32)
    for model in models:
        config = hf_config(model)
        assert architecture_from_hf(config) == model.architecture
        assert architecture_from_hf(LlamaConfig(**config).to_dict()) == model.architecture


def test_damaged_and_missing_files_are_reported(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or truncated"):
        load_hf_weights(tiny_smollm2(), folder)
    weights.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no weights in .*; expected model.safetensors, .* or pytorch_model.bin"
    ):
        load_hf_weights(tiny_smollm2(), folder)
    write(folder, config__json="{")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        load_hf_weights(tiny_smollm2(), folder)
    with pytest.raises(
        FileNotFoundError, match=r"no config.json in .*; expected the folder of a Hugging Face model"
    ):
        load_hf_weights(tiny_smollm2(), folder.parent)


def test_saved_folder_includes_the_tokenizer_and_stop_tokens(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = write(
        tmp_path / "source",
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
        generation_config__json=json.dumps({"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 0}),
        notes__txt="not to be copied",
    )
    save_hf_folder(tiny_smollm2(), tmp_path / "model", tokenizer_directory=source)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.eos_token_id == 2
    assert tokenizer("these words")["input_ids"] == tiny_tokenizer().encode("these words").ids
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (model.generation_config.eos_token_id, model.config.eos_token_id) == ([2, 0], [2, 0])
    assert not (tmp_path / "model" / "notes.txt").exists()


def test_stop_tokens_are_written_without_a_generation_config(tmp_path: Path) -> None:
    source = write(
        tmp_path / "source",
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
    )
    save_hf_folder(tiny_smollm2(), tmp_path / "model", tokenizer_directory=source)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (2, 0)


def test_failed_save_leaves_no_files(tmp_path: Path) -> None:
    model = tiny_smollm2()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*: expected tokenizer.json, "):
        save_hf_folder(model, tmp_path / "model", tokenizer_directory=tmp_path)
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    with pytest.raises(ValueError, match=r"has LoRA adapters; merge them first \(merge_lora\)"):
        save_hf_folder(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
