"""Prefixes that wrappers put into the names of tensors are stripped where the rest is the model's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats.test_peft_adapter import base_of, ours_of
from tests.models.tiny import tiny_smollm2
from torchtune.formats import convert, hf_decoder, load_hf_weights, save_hf_folder
from torchtune.modules import Decoder

Rename = Callable[[str], str]


def rename(path: Path, new_name: Rename) -> None:
    save_file({new_name(name): tensor for name, tensor in load_file(path).items()}, path)


WRAPPED: dict[str, Rename] = {
    "DataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "torch.compile of DataParallel": lambda name: f"_orig_mod.module.{name}",
    "DataParallel of torch.compile": lambda name: f"module._orig_mod.{name}",
    "Lightning": lambda name: f"model.{name}",
    "the bare decoder": lambda name: name.removeprefix("model."),
    "PEFT": lambda name: f"base_model.model.{name}",
    "PEFT, compiled": lambda name: f"_orig_mod.base_model.model.{name}",
    "compiled layers": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "FSDP with checkpoints": lambda name: f"_fsdp_wrapped_module.{name}".replace(
        ".mlp.", "._fsdp_wrapped_module._checkpoint_wrapped_module.mlp."
    ),
}


@pytest.mark.parametrize("tied_embeddings", [False, True])
@pytest.mark.parametrize("new_name", WRAPPED.values(), ids=WRAPPED)
def test_wrapper_prefixes_are_stripped(tmp_path: Path, new_name: Rename, *, tied_embeddings: bool) -> None:
    model = tiny_smollm2(tied_embeddings=tied_embeddings)
    save_hf_folder(model, tmp_path / "model")
    rename(tmp_path / "model/model.safetensors", new_name)
    other = Decoder(model.architecture).double()
    load_hf_weights(other, tmp_path / "model")
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    convert(tmp_path / "model", tmp_path / "plain")
    names = load_file(tmp_path / "plain/model.safetensors").keys()
    assert all(name.startswith("model.") or name == "lm_head.weight" for name in names)


@pytest.mark.parametrize("family", ["Phi3", "GPT2"])
@pytest.mark.parametrize(
    "new_name",
    [
        lambda name: f"module.{name}",
        lambda name: name.removeprefix("transformer.").removeprefix("model."),
        lambda name: f"_orig_mod.base_model.model.{name}",
    ],
)
def test_every_family_has_them_stripped(tmp_path: Path, family: str, new_name: Rename) -> None:
    base = base_of(family, tmp_path / "base")
    expected = ours_of(base).state_dict()
    rename(base / "model.safetensors", new_name)
    torch.testing.assert_close(ours_of(base).state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("net.", r"with net.model.embed_tokens.weight, .* unknown to the model$"),
        (
            "module.net.",
            r"module.net.* prefixes such as module. and _orig_mod. are stripped only where the rest",
        ),
        ("module.ema.", r"are stripped only where the rest is one of its names"),
    ],
)
def test_other_prefixes_are_named(tmp_path: Path, prefix: str, message: str) -> None:
    save_hf_folder(tiny_smollm2(), tmp_path / "model")
    rename(tmp_path / "model/model.safetensors", lambda name: prefix + name)
    with pytest.raises(ValueError, match=f"are another model's: .*{message}"):
        load_hf_weights(tiny_smollm2(), tmp_path / "model")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.model."])
def test_a_tensor_that_is_there_twice_is_ambiguous(tmp_path: Path, prefix: str) -> None:
    save_hf_folder(tiny_smollm2(), tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors[f"{prefix}model.norm.weight"] = torch.zeros(64)
    save_file(tensors, tmp_path / "model/model.safetensors")
    with pytest.raises(ValueError, match=r"are both model.norm.weight without wrapper prefixes"):
        load_hf_weights(tiny_smollm2(), tmp_path / "model")


def test_weights_with_adapters_in_them_are_to_be_merged(tmp_path: Path) -> None:
    save_hf_folder(tiny_smollm2(), tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["model.layers.0.mlp.up_proj.lora_A.default.weight"] = torch.zeros(2, 64)
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
        tmp_path / "model/model.safetensors",
    )
    with pytest.raises(ValueError, match=r"adapters are to be merged into the weights first"):
        load_hf_weights(hf_decoder(str(tmp_path / "model")), tmp_path / "model")
