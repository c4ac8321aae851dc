"""Merging reports the logit change between PEFT's unmerged model and transformers' merged model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.formats.test_peft_adapter import load_transformers, lora_config, write_base, write_peft_adapter
from tests.models.tiny import tiny_tokenizer, tokenizer_config, write
from tests.tolerance import assert_near, bound
from tests.tune import Tune
from torchtune.formats import _logits, convert

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = [i * 300 // 16 for i in range(16)]


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("family", ["Llama", "Phi3", "GPT2"])
@pytest.mark.parametrize("kind", [{}, {"kind": "dora"}], ids=["lora", "dora"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_reported_change_matches_the_difference_between_peft_and_the_merged_folder(
    tmp_path: Path, family: str, kind: dict[str, Any], dtype: torch.dtype
) -> None:
    base = write_base(family, tmp_path / "base")
    peft_model = write_peft_adapter(base, tmp_path / "adapter", lora_config(family, kind))
    merge = convert(tmp_path / "adapter", tmp_path / "merged", base=base, dtype=dtype)
    assert merge is not None
    assert merge.base == base
    tokens = torch.tensor([IDS])
    with torch.no_grad():
        before = peft_model(tokens).logits
        after = load_transformers(tmp_path / "merged").float()(tokens).logits
    difference = (after - before).abs()
    # Both sides compute in float32; every logit is a sum over two layers of width up to 96.
    rounding = 4 * bound(torch.float32, 2 * 96) * before.abs().max().item()
    assert merge.change.largest == pytest.approx(difference.max().item(), abs=rounding, rel=0.02)
    assert merge.change.mean == pytest.approx(difference.mean().item(), abs=rounding, rel=0.02)
    assert (merge.change.n_tokens, merge.change.dtype) == (16, dtype)
    assert ("--dtype float32" in str(merge.change)) == (merge.change.largest > 0.1 and dtype != torch.float32)


@pytest.mark.parametrize("family", ["Llama", "Phi3", "GPT2"])
def test_layerwise_logits_match_the_full_model(tmp_path: Path, family: str) -> None:
    from torchtune.formats.hf._open import open_hf

    base = write_base(family, tmp_path / "base")
    checkpoint = open_hf(base)
    logits = _logits.compute_logits(checkpoint.model, checkpoint.weights, IDS)
    with torch.no_grad():
        assert_near(
            logits, load_transformers(base)(torch.tensor([IDS])).logits[0], bound(torch.float32, 2 * 96)
        )
    assert all(parameter.is_meta for parameter in checkpoint.model.parameters())


def test_tune_convert_prints_the_logit_change_on_one_line(tune: Tune, tmp_path: Path) -> None:
    base = write_base("Llama", tmp_path / "base")
    write(
        base,
        tokenizer__json=tiny_tokenizer().to_str(),
        tokenizer_config__json=json.dumps(tokenizer_config()),
    )
    write_peft_adapter(base, tmp_path / "adapter", lora_config("Llama", {}))
    for dtype, advice in (
        ("bfloat16", "use --dtype float32"),
        ("float32", "weights are rounded to float32\n"),
    ):
        result = tune(
            "convert", str(tmp_path / "adapter"), str(tmp_path / dtype), f"--base={base}", f"--dtype={dtype}"
        )
        first, second = result.out.splitlines(keepends=True)
        assert first.startswith(f"wrote {tmp_path / dtype}, ")
        assert second.startswith("merging changed the logits of 16 tokens by ")
        assert advice in second
    assert "merging" not in tune("convert", str(base), str(tmp_path / "plain")).out
