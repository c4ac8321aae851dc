"""Greedy answers of multiple model families match transformers token for token."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.formats.float64 import float64_transformers
from tests.models.test_families import FAMILIES, SMALL
from torchtune.formats import architecture_from_hf, load_hf_weights
from torchtune.generation import Sampling, _generate, generate, generate_batch
from torchtune.modules import Decoder

MAX_NEW_TOKENS = 16
PROMPTS: list[list[int]] = [
    torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (12, 1, 5, 19)
]
"""Prompts of different lengths; some exceed the sliding window, and each one exceeds it together with its answer."""


class Pair(NamedTuple):
    """A model in torchtune and its counterpart in transformers."""

    model: Decoder
    reference: Any


@pytest.fixture(scope="module", params=["llama3_1", "mistral", "qwen3", "gemma2", "gemma3", "gpt2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    import transformers

    folder: Path = tmp_path_factory.mktemp(request.param)
    name, change = FAMILIES[request.param]
    settings = change if name == "GPT2" else {**SMALL, **change}
    config = getattr(transformers, f"{name}Config")(**{k: v for k, v in settings.items() if v is not ...})
    torch.manual_seed(0)
    with float64_transformers():
        from_config: Any = transformers.AutoModelForCausalLM.from_config
        reference = from_config(config, attn_implementation="eager").double().eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.normal_(std=_std(name, parameter))
    reference.save_pretrained(folder)
    model = Decoder(architecture_from_hf(json.loads((folder / "config.json").read_text()))).double()
    load_hf_weights(model, folder)
    return Pair(model, reference)


def _std(name: str, parameter: Tensor) -> float:
    """Return a standard deviation for which even tiny models with tied embeddings generate varied tokens."""
    if name.endswith("bias"):
        return 0.1
    if parameter.dim() == 1:  # a norm weight
        return 2.0
    return 0.02 if "embed" in name or "wte" in name else 3.0


def reference_answers(pair: Pair, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """Return transformers' answers to a left-padded batch."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
        **options,
    }
    with float64_transformers():
        answers: list[list[int]] = pair.reference.generate(tokens, attention_mask=mask, **options)[
            :, width:
        ].tolist()
    return answers


@pytest.mark.quick_cases(1)
def test_a_batch_with_different_prompt_lengths_matches_transformers(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = reference_answers(pair, PROMPTS)
    assert len({token for answer in expected for token in answer}) > 12, (
        "the answers must vary, or the comparison is meaningless"
    )
    assert generate_batch(pair.model, PROMPTS, max_new_tokens=MAX_NEW_TOKENS) == expected
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        assert list(generate(pair.model, prompt, max_new_tokens=MAX_NEW_TOKENS)) == answer
    monkeypatch.setattr(
        _generate, "PREFILL_CHUNK_SIZE", 4
    )  # so that the prompts are split into multiple prefill chunks
    assert generate_batch(pair.model, PROMPTS, max_new_tokens=MAX_NEW_TOKENS) == expected


@pytest.mark.quick_cases(3)
def test_rows_end_at_stop_ids_as_in_transformers(pair: Pair) -> None:
    full = generate_batch(pair.model, PROMPTS, max_new_tokens=MAX_NEW_TOKENS)
    stops = {full[0][6], full[1][2], full[3][12]}
    answers = generate_batch(pair.model, PROMPTS, max_new_tokens=MAX_NEW_TOKENS, stop_ids=stops)
    reference = reference_answers(pair, PROMPTS, eos_token_id=sorted(stops))
    truncated = [
        answer[: next((i for i, t in enumerate(answer) if t in stops), MAX_NEW_TOKENS)]
        for answer in reference
    ]
    assert answers == truncated
    assert len({len(answer) for answer in answers}) > 2, "rows must end at different steps"


@pytest.mark.quick_cases(1)
def test_repetition_penalty_matches_transformers(pair: Pair) -> None:
    sampling = Sampling(repetition_penalty=1.4)
    answers = generate_batch(pair.model, PROMPTS[:2], max_new_tokens=MAX_NEW_TOKENS, sampling=sampling)
    # Prompts are answered one by one, because transformers also penalizes padding tokens.
    assert answers == [reference_answers(pair, [p], repetition_penalty=1.4)[0] for p in PROMPTS[:2]]
    assert answers != generate_batch(pair.model, PROMPTS[:2], max_new_tokens=MAX_NEW_TOKENS)


def test_cached_answers_match_the_argmax_of_uncached_logits(pair: Pair) -> None:
    answers = generate_batch(pair.model, PROMPTS, max_new_tokens=MAX_NEW_TOKENS)
    with torch.no_grad():
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            logits = pair.model(torch.tensor([prompt + answer]))[0]
            assert logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == answer
