"""Wrapper prefixes of tensor names are stripped if the remaining name belongs to the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.formats.test_peft_adapter import load_float64, write_base
from tests.models.tiny import tiny_smollm2
from torchtune.formats import convert, hf_decoder, load_hf_weights, save_hf_folder
from torchtune.modules import Decoder

Rename = Callable[[str], str]


def rename_tensors(path: Path, new_name: Rename) -> None:
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
    rename_tensors(tmp_path / "model/model.safetensors", new_name)
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
def test_wrapper_prefixes_are_stripped_in_every_family(tmp_path: Path, family: str, new_name: Rename) -> None:
    base = write_base(family, tmp_path / "base")
    expected = load_float64(base).state_dict()
    rename_tensors(base / "model.safetensors", new_name)
    torch.testing.assert_close(load_float64(base).state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("net.", r"unexpected net.model.embed_tokens.weight, .*more$"),
        (
            "module.net.",
            r"module.net.* prefixes such as module. and _orig_mod. are removed only if the remaining",
        ),
        ("module.ema.", r"are removed only if the remaining name is in the model"),
    ],
)
def test_unknown_prefixes_are_rejected(tmp_path: Path, prefix: str, message: str) -> None:
    save_hf_folder(tiny_smollm2(), tmp_path / "model")
    rename_tensors(tmp_path / "model/model.safetensors", lambda name: prefix + name)
    with pytest.raises(ValueError, match=f"do not match the model: .*{message}"):
        load_hf_weights(tiny_smollm2(), tmp_path / "model")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.model."])
def test_names_that_are_equal_after_stripping_are_rejected(tmp_path: Path, prefix: str) -> None:
    save_hf_folder(tiny_smollm2(), tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors[f"{prefix}model.norm.weight"] = torch.zeros(64)
    save_file(tensors, tmp_path / "model/model.safetensors")
    with pytest.raises(
        ValueError, match=r"both become model.norm.weight when their wrapper prefixes are removed"
    ):
        load_hf_weights(tiny_smollm2(), tmp_path / "model")


def test_weights_with_unmerged_adapters_are_rejected(tmp_path: Path) -> None:
    save_hf_folder(tiny_smollm2(), tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["model.layers.0.mlp.up_proj.lora_A.default.weight"] = torch.zeros(2, 64)
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
        tmp_path / "model/model.safetensors",
    )
    with pytest.raises(ValueError, match=r"merge the adapters into the weights first"):
        load_hf_weights(hf_decoder(str(tmp_path / "model")), tmp_path / "model")
