"""Every model size has the parameter count of its checkpoint and can be restored from its config.json."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import torchtune.models
from torchtune.config._dotpath import dotpath
from torchtune.formats import architecture_from_hf, hf_config
from torchtune.modules import Decoder

# Parameters of the checkpoints on the Hugging Face hub (`model.safetensors.index.json` and model cards).
SIZES = {
    "llama2.llama2_7b": 6_738_415_616,
    "llama2.llama2_13b": 13_015_864_320,
    "llama2.llama2_70b": 68_976_648_192,
    "llama2.code_llama_7b": 6_738_546_688,
    "llama2.tiny_llama_1_1b": 1_100_048_384,
    "llama3.llama3_8b": 8_030_261_248,
    "llama3.llama3_70b": 70_553_706_496,
    "llama3.llama3_1_8b": 8_030_261_248,
    "llama3.llama3_1_70b": 70_553_706_496,
    "llama3.llama3_1_405b": 405_853_388_800,
    "llama3.llama3_2_1b": 1_235_814_400,
    "llama3.llama3_2_3b": 3_212_749_824,
    "llama3.llama3_3_70b": 70_553_706_496,
    "smollm2.smollm2_135m": 134_515_008,
    "smollm2.smollm2_360m": 361_821_120,
    "smollm2.smollm2_1_7b": 1_711_376_384,
    "mistral.mistral_7b": 7_241_732_096,
    "mistral.mistral_7b_v0_3": 7_248_023_552,
    "qwen2.qwen2_0_5b": 494_032_768,
    "qwen2.qwen2_1_5b": 1_543_714_304,
    "qwen2.qwen2_5_3b": 3_085_938_688,
    "qwen2.qwen2_7b": 7_615_616_512,
    "qwen2.qwen2_5_14b": 14_770_033_664,
    "qwen2.qwen2_5_32b": 32_763_876_352,
    "qwen2.qwen2_5_72b": 72_706_203_648,
    "qwen3.qwen3_0_6b": 596_049_920,
    "qwen3.qwen3_1_7b": 1_720_574_976,
    "qwen3.qwen3_4b": 4_022_468_096,
    "qwen3.qwen3_8b": 8_190_735_360,
    "qwen3.qwen3_14b": 14_768_307_200,
    "qwen3.qwen3_32b": 32_762_123_264,
    "gemma.gemma_2b": 2_506_172_416,
    "gemma.gemma_7b": 8_537_680_896,
    "gemma.gemma2_2b": 2_614_341_888,
    "gemma.gemma2_9b": 9_241_705_984,
    "gemma.gemma2_27b": 27_227_128_320,
    "gemma.gemma3_270m": 268_098_176,
    "gemma.gemma3_1b": 999_885_952,
    "phi3.phi3_mini_4k": 3_821_079_552,
    "phi3.phi4": 14_659_507_200,
    "olmo2.olmo2_1b": 1_484_916_736,
    "olmo2.olmo2_7b": 7_298_617_344,
    "olmo2.olmo2_13b": 13_716_198_400,
    "olmo2.olmo2_32b": 32_234_279_936,
    "gpt2.gpt2": 124_439_808,
    "gpt2.gpt2_medium": 354_823_168,
    "gpt2.gpt2_large": 774_030_080,
    "gpt2.gpt2_xl": 1_557_611_200,
}


def build(name: str) -> Decoder:
    module, _, function = name.partition(".")
    with torch.device("meta"):
        model = getattr(importlib.import_module(f"torchtune.models.{module}"), function)()
    assert isinstance(model, Decoder)
    return model


@pytest.mark.quick_cases(23)
@pytest.mark.parametrize(("name", "parameters"), SIZES.items())
def test_each_size_has_the_parameter_count_of_its_checkpoint(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == parameters


@pytest.mark.quick_cases(15)
@pytest.mark.parametrize("name", SIZES)
def test_architecture_of_each_size_is_restored_from_its_config(name: str) -> None:
    model = build(name)
    assert architecture_from_hf(hf_config(model)) == model.architecture


def test_every_builder_of_a_size_is_listed() -> None:
    builders = set[str]()
    for entry in pkgutil.iter_modules(torchtune.models.__path__, "torchtune.models."):
        for value in vars(importlib.import_module(entry.name)).values():
            if inspect.isfunction(value) and [*inspect.signature(value).parameters] == ["max_seq_len"]:
                builders.add(dotpath(value).removeprefix("torchtune.models."))
    assert builders == SIZES.keys()
