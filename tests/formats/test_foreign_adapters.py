"""Adapters from other tools: errors name unsupported settings, and wrapper prefixes are stripped."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.tiny import random_tokens, tiny_smollm2, write
from tests.modules.adapters import randomize_adapters
from torchtune.formats import convert, load_peft_adapter, save_hf_folder, save_peft_adapter
from torchtune.modules import AdapterKind, Decoder, add_lora, has_adapters, lora_state

Rename = Callable[[str], str]


def adapted_model(kind: AdapterKind = "lora") -> Decoder:
    model = tiny_smollm2()
    add_lora(model, "all-linear", rank=3, alpha=5.0, kind=kind)
    randomize_adapters(model, std=0.1)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_peft_adapter(adapted_model(), tmp_path / "adapter", base_model="the/base")
    return tmp_path / "adapter"


def set_keys(folder: Path, **keys: Any) -> Path:
    config = json.loads((folder / "adapter_config.json").read_text())
    return write(folder, adapter_config__json=json.dumps({**config, **keys}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("trainable_token_indices", [5, 7]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("arrow_config", {"top_k": 2}),
        ("megatron_config", {"tensor_model_parallel_size": 2}),
        ("velora_config", {"num_groups": 4}),
        ("lora_bias", True),
        ("bias", "all"),
        ("use_mora", True),
        ("future_lora_variant", {"k": 3}),
        ("scale_by_layer", 0.5),
        ("a_mode", "sparse"),
    ],
)
def test_key_that_changes_the_result_is_rejected_by_name(folder: Path, key: str, value: Any) -> None:
    set_keys(folder, **{key: value})
    model = tiny_smollm2()
    with pytest.raises(ValueError, match=rf"adapter_config.json: {key} is .*only "):
        load_peft_adapter(model, folder)
    assert not has_adapters(model)
    save_hf_folder(tiny_smollm2(), folder.parent / "base")
    with pytest.raises(ValueError, match=rf"adapter_config.json: {key} is "):
        convert(folder, folder.parent / "merged", base=folder.parent / "base")


@pytest.mark.parametrize(
    "keys",
    [
        {"future_lora_variant": None, "use_mora": False, "mora_layers": [], "a_mode": ""},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"init_lora_weights": "orthogonal", "peft_version": "9.0", "revision": "main"},
        {"init_lora_weights": "gaussian", "loftq_config": {"loftq_bits": 4}, "runtime_config": {}},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers", "exclude_modules": ["lm_head"]},
    ],
)
def test_key_without_effect_is_ignored(folder: Path, keys: dict[str, Any]) -> None:
    model = tiny_smollm2()
    load_peft_adapter(model, set_keys(folder, **keys))
    torch.testing.assert_close(lora_state(model), lora_state(adapted_model()), rtol=0, atol=0)


@pytest.mark.parametrize("initialization", ["loftq", "pissa", "corda", "olora", "lora_ga"])
def test_initialization_that_changes_the_base_is_rejected(folder: Path, initialization: str) -> None:
    with pytest.raises(
        ValueError, match=f"init_lora_weights is '{initialization}', which changes the base weights"
    ):
        load_peft_adapter(tiny_smollm2(), set_keys(folder, init_lora_weights=initialization))


def test_every_key_of_the_installed_peft_is_handled(folder: Path) -> None:
    from peft import LoraConfig

    from torchtune.formats.peft import _config

    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    known_fields = {
        *_config._REQUIRED_SETTINGS,
        *_config._SUPPORTED_KEYS,
        *_config._IGNORED_KEYS,
        *_config.KIND_SETTINGS,
    }
    assert fields - known_fields == set()
    LoraConfig(r=3, lora_alpha=5).save_pretrained(str(folder))
    load_peft_adapter(tiny_smollm2(), folder)


WRAPPED: dict[str, Rename] = {
    "without base_model.model.": lambda name: name.removeprefix("base_model.model."),
    "without any prefix": lambda name: name.removeprefix("base_model.model.model."),
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled base": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "compiled layers": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "DataParallel": lambda name: f"module.{name}",
    "state_dict of PEFT": lambda name: (
        name.replace(".lora_A.", ".lora_A.default.")
        .replace(".lora_B.", ".lora_B.default.")
        .replace("_vector", "_vector.default.weight")
    ),
    "all of them": lambda name: (
        "_orig_mod.module."
        + name.removeprefix("base_model.model.")
        .replace(".lora_A.", ".lora_A.default.")
        .replace(".mlp", ".module.mlp")
    ),
}


@pytest.mark.quick_cases(11)
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("new_name", WRAPPED.values(), ids=WRAPPED)
def test_wrapper_prefixes_of_adapters_are_stripped(
    tmp_path: Path, new_name: Rename, kind: AdapterKind
) -> None:
    model = adapted_model(kind)
    save_peft_adapter(model, tmp_path / "adapter", base_model=None)
    file = tmp_path / "adapter/adapter_model.safetensors"
    save_file({new_name(name): tensor for name, tensor in load_file(file).items()}, file)
    other = tiny_smollm2()
    load_peft_adapter(other, tmp_path / "adapter")
    torch.testing.assert_close(lora_state(other), lora_state(model), rtol=0, atol=0)
    assert torch.equal(other.eval()(random_tokens(1, 5)), model(random_tokens(1, 5)))


@pytest.mark.parametrize("prefix", ["net.", "base_model.model.decoder."])
def test_unknown_prefixes_of_adapters_are_rejected(folder: Path, prefix: str) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(
        {prefix + name.removeprefix("base_model.model."): t for name, t in load_file(file).items()}, file
    )
    with pytest.raises(
        ValueError, match=rf"belongs to a different model or has a different kind: unexpected tensor {prefix}"
    ):
        load_peft_adapter(tiny_smollm2(), folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_adapter_is_rejected(folder: Path, dtype: torch.dtype) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(
        ValueError, match=r"adapter contains a quantized model, according to the dtype of base_model"
    ):
        load_peft_adapter(tiny_smollm2(), folder)
