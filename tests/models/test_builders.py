"""Model builders produce models of the sizes published in papers and config.json files."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from torchtune.models.llama2 import llama2, llama2_7b
from torchtune.models.smollm2 import smollm2, smollm2_135m
from torchtune.modules import Decoder


@pytest.mark.parametrize(("build", "count"), [(llama2_7b, 6_738_415_616), (smollm2_135m, 134_515_008)])
def test_models_have_the_published_number_of_parameters(build: Callable[..., Decoder], count: int) -> None:
    with torch.device("meta"):
        model = build()
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_constants_and_head_counts_match_the_published_configs() -> None:
    with torch.device("meta"):
        llama, smol = (SimpleNamespace(**build().architecture.flat()) for build in (llama2_7b, smollm2_135m))
    assert (llama.rope_base, llama.norm_eps, llama.num_heads, llama.max_seq_len) == (10_000, 1e-5, 32, 4096)
    assert (smol.rope_base, smol.norm_eps, smol.num_heads, smol.max_seq_len) == (100_000, 1e-5, 9, 8192)
    assert (smol.num_kv_heads, smol.head_dim) == (3, 64)


@pytest.mark.parametrize("build", [llama2, llama2_7b, smollm2, smollm2_135m])
def test_every_argument_is_a_documented_keyword_with_a_default(build: Callable[..., Decoder]) -> None:
    documentation = inspect.getdoc(build)
    parameters = inspect.signature(build).parameters
    assert parameters
    assert documentation is not None
    for name, parameter in parameters.items():
        assert f"\n    {name}: " in documentation
        assert parameter.default is not inspect.Parameter.empty


def test_heads_that_do_not_divide_the_width_are_rejected() -> None:
    with pytest.raises(ValueError, match="embed_dim = 10 is not a multiple of num_heads = 3; set head_dim"):
        llama2(embed_dim=10, num_heads=3)
