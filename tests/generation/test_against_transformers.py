"""Greedy answers of several families are those of transformers, token for token."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.formats.exact import lifted
from tests.models.test_families import FAMILIES, SMALL
from torchtune.formats import architecture_from_hf, load_hf_weights
from torchtune.generation import Sampling, _generate, generate, generate_batch
from torchtune.modules import Decoder

N = 16
PROMPTS: list[list[int]] = [
    torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (12, 1, 5, 19)
]
"""Of unequal lengths, some longer than the windows, which all answers outgrow."""


class Pair(NamedTuple):
    """The same model twice."""

    ours: Decoder
    theirs: Any


@pytest.fixture(scope="module", params=["llama3_1", "mistral", "qwen3", "gemma2", "gemma3", "gpt2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    import transformers

    folder: Path = tmp_path_factory.mktemp(request.param)
    name, change = FAMILIES[request.param]
    whole = change if name == "GPT2" else {**SMALL, **change}
    config = getattr(transformers, f"{name}Config")(**{k: v for k, v in whole.items() if v is not ...})
    torch.manual_seed(0)
    with lifted():
        make: Any = transformers.AutoModelForCausalLM.from_config
        theirs = make(config, attn_implementation="eager").double().eval()
    with torch.no_grad():
        for own, parameter in theirs.named_parameters():
            parameter.normal_(std=_std(own, parameter))
    theirs.save_pretrained(folder)
    ours = Decoder(architecture_from_hf(json.loads((folder / "config.json").read_text()))).double()
    load_hf_weights(ours, folder)
    return Pair(ours, theirs)


def _std(name: str, parameter: Tensor) -> float:
    """Return what makes tiny models fickle, also those whose head is their embedding: the layers have their say."""
    if name.endswith("bias"):
        return 0.1
    if parameter.dim() == 1:  # a norm's
        return 2.0
    return 0.02 if "embed" in name or "wte" in name else 3.0


def their_answers(pair: Pair, prompts: list[list[int]], **how: Any) -> list[list[int]]:
    """Generate as transformers does, prompts padded on the left."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    how = {"max_new_tokens": N, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **how}
    with lifted():
        found: list[list[int]] = pair.theirs.generate(tokens, attention_mask=mask, **how)[:, width:].tolist()
    return found


def test_a_batch_of_unequal_prompts_is_continued_as_by_transformers(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = their_answers(pair, PROMPTS)
    assert len({token for answer in expected for token in answer}) > 12, (
        "a model that repeats itself shows little"
    )
    assert generate_batch(pair.ours, PROMPTS, max_new_tokens=N) == expected
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        assert list(generate(pair.ours, prompt, max_new_tokens=N)) == answer
    monkeypatch.setattr(_generate, "PREFILL", 4)  # so that prompts are read in several pieces
    assert generate_batch(pair.ours, PROMPTS, max_new_tokens=N) == expected


def test_rows_end_at_stop_ids_as_those_of_transformers(pair: Pair) -> None:
    whole = generate_batch(pair.ours, PROMPTS, max_new_tokens=N)
    stops = {whole[0][6], whole[1][2], whole[3][12]}
    found = generate_batch(pair.ours, PROMPTS, max_new_tokens=N, stop_ids=stops)
    theirs = their_answers(pair, PROMPTS, eos_token_id=sorted(stops))
    cut = [answer[: next((i for i, t in enumerate(answer) if t in stops), N)] for answer in theirs]
    assert found == cut
    assert len({len(answer) for answer in found}) > 2, "rows end at different times"


def test_a_repetition_penalty_is_that_of_transformers(pair: Pair) -> None:
    sampling = Sampling(repetition_penalty=1.4)
    found = generate_batch(pair.ours, PROMPTS[:2], max_new_tokens=N, sampling=sampling)
    # One by one: to transformers, padding is among the tokens that were there before.
    assert found == [their_answers(pair, [p], repetition_penalty=1.4)[0] for p in PROMPTS[:2]]
    assert found != generate_batch(pair.ours, PROMPTS[:2], max_new_tokens=N)


def test_a_cache_changes_nothing(pair: Pair) -> None:
    found = generate_batch(pair.ours, PROMPTS, max_new_tokens=N)
    with torch.no_grad():
        for prompt, answer in zip(PROMPTS, found, strict=True):
            logits = pair.ours(torch.tensor([prompt + answer]))[0]
            assert logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == answer
