"""Folders go to transformers and come back, with the same logits."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats.exact import lifted
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
def test_logits_and_gradients_equal_those_of_transformers(tmp_path: Path, *, tied_embeddings: bool) -> None:
    from transformers import AutoModelForCausalLM

    model, tokens = tiny_smollm2(tied_embeddings=tied_embeddings), random_tokens(2, 9)
    save_hf_folder(model, tmp_path / "model")
    with lifted():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert theirs.dtype == torch.float64
        expected = theirs(tokens).logits
        expected.square().mean().backward()
    logits = model(tokens)
    logits.square().mean().backward()
    assert_near(logits, expected, FLOAT64)
    for name, parameter in theirs.named_parameters():
        ours = model.get_parameter(name.removeprefix("model."))
        assert ours.grad is not None
        assert parameter.grad is not None
        assert_near(ours.grad, parameter.grad, FLOAT64)


@pytest.mark.parametrize("on_meta", [False, True])
@pytest.mark.parametrize("tied_embeddings", [False, True])
def test_a_saved_model_loads_to_the_bit(tmp_path: Path, *, tied_embeddings: bool, on_meta: bool) -> None:
    model = tiny_smollm2(tied_embeddings=tied_embeddings)
    save_hf_folder(model, tmp_path / "model")
    with torch.device("meta" if on_meta else "cpu"):
        other = Decoder(model.architecture).double()
    load_hf_weights(other, tmp_path / "model")
    torch.testing.assert_close(other(random_tokens(2, 9)), model(random_tokens(2, 9)), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in other.parameters())


@pytest.mark.parametrize("on_meta", [False, True])
def test_weights_take_the_dtype_of_the_model(folder: Path, *, on_meta: bool) -> None:
    with torch.device("meta" if on_meta else "cpu"):
        model = Decoder(tiny_smollm2().architecture).bfloat16()
    load_hf_weights(model, folder)
    torch.testing.assert_close(model.state_dict(), tiny_smollm2().bfloat16().state_dict(), rtol=0, atol=0)


def test_weights_go_under_adapters(folder: Path) -> None:
    model = Decoder(tiny_smollm2().architecture).double()
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    load_hf_weights(model, folder)
    assert_near(model(random_tokens(1, 5)), tiny_smollm2()(random_tokens(1, 5)), FLOAT64)


def test_shards_are_read_by_their_index(folder: Path) -> None:
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
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    again = Decoder(model.architecture).double()
    load_hf_weights(again, tmp_path / "model")
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(theirs.lm_head.weight, model.head_weight, rtol=0, atol=0)


@pytest.mark.parametrize("shards", [1, 2])
def test_pickles_of_tensors_are_read_as_well(folder: Path, shards: int) -> None:
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


class Runs:
    """Runs a command when it is unpickled, as a hostile checkpoint does."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.trace,)


def test_pickle_that_runs_code_is_refused_and_does_not_run(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Runs(str(folder / "trace"))}, folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"holds posix.mkdir beside tensors, which might be code and is not run; fetch"
    ):
        load_hf_weights(tiny_smollm2(), folder)
    assert not (folder / "trace").exists()
    (folder / "pytorch_model.bin").write_bytes(
        pickle.dumps({"model.norm.weight": Runs(str(folder / "trace"))})
    )
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors, which is not run"):
        load_hf_weights(tiny_smollm2(), folder)
    assert not (folder / "trace").exists()
    (folder / "pytorch_model.bin").write_bytes(b"PK but no zip")
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors, which is not run"):
        load_hf_weights(tiny_smollm2(), folder)
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="something else than tensors by name"):
        load_hf_weights(tiny_smollm2(), folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map of tensors to files"),
        ({"weight_map": {"a": 3}}, "has no weight_map of tensors to files"),
        ({"weight_map": {"a": "../other/model.safetensors"}}, "which is no file of its folder"),
        (
            {"weight_map": {"nothing.like.it": "shard.safetensors"}},
            "speaks of nothing.like.it, which no file",
        ),
    ],
)
def test_wrong_index_is_named(folder: Path, index: dict[str, Any], message: str) -> None:
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    write(folder, model__safetensors__index__json=json.dumps(index))
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json") as caught:
        load_hf_weights(tiny_smollm2(), folder)
    assert message in str(caught.value)


def test_needless_tensors_of_old_checkpoints_are_passed_over(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, folder / "model.safetensors")
    load_hf_weights(tiny_smollm2(), folder)
    save_file({**tensors, "lm_head.weight": torch.zeros(300, 64)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"with lm_head.weight, unknown to the model"):
        load_hf_weights(tiny_smollm2(), folder)


def _without(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "layers.1" in name]:
        del tensors[name]


def _other_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = torch.zeros(65)


def _more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, r"without model.layers.1.input_layernorm.weight, .* and 6 more"),
        (_other_shape, r"model.norm.weight is \[65\] there, \[64\] in the model"),
        (_more, r"with model.layers.0.self_attn.q_proj.bias, unknown to the model"),
    ],
)
def test_another_models_tensors_are_named(folder: Path, change: Any, message: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"the weights in .* are another model's: {message}"):
        load_hf_weights(tiny_smollm2(), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": 1e4}, "rope_base is 10000.0 there, 100000.0 in the model"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_base is 5.0 there"),
        ({"num_attention_heads": 8, "head_dim": None}, "num_heads is 8 there, 4 in the model; head_dim is 8"),
        ({"vocab_size": 400}, "vocab_size is 400 there, 300 in the model"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu' is supported"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported, only llama"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            "embeddings of type 'yarn' are not supported",
        ),
        ({"hidden_size": None}, "there is no 'hidden_size'"),
    ],
)
def test_a_config_of_another_model_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    write(folder, config__json=json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        load_hf_weights(tiny_smollm2(), folder)


def test_architecture_survives_the_config_in_both_of_its_spellings() -> None:
    from transformers import LlamaConfig

    with torch.device("meta"):
        models = tiny_smollm2(), llama2_7b(), smollm2(num_layers=1, head_dim=32)
    for model in models:
        config = hf_config(model)
        assert architecture_from_hf(config) == model.architecture
        assert architecture_from_hf(LlamaConfig(**config).to_dict()) == model.architecture


def test_damaged_and_missing_files_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or cut short"):
        load_hf_weights(tiny_smollm2(), folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors .* nor pytorch_model.bin\) in"):
        load_hf_weights(tiny_smollm2(), folder)
    write(folder, config__json="{")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        load_hf_weights(tiny_smollm2(), folder)
    with pytest.raises(
        FileNotFoundError, match=r"no config.json in .*; expected the folder of a Hugging Face model"
    ):
        load_hf_weights(tiny_smollm2(), folder.parent)


def test_a_saved_folder_carries_its_tokenizer_and_where_to_stop(tmp_path: Path) -> None:
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


def test_where_to_stop_is_found_without_a_generation_config(tmp_path: Path) -> None:
    source = write(
        tmp_path / "source",
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
    )
    save_hf_folder(tiny_smollm2(), tmp_path / "model", tokenizer_directory=source)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (2, 0)


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    model = tiny_smollm2()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*: expected tokenizer.json, "):
        save_hf_folder(model, tmp_path / "model", tokenizer_directory=tmp_path)
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    with pytest.raises(ValueError, match=r"has LoRA adapters; merge them into it first \(merge_lora\)"):
        save_hf_folder(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
