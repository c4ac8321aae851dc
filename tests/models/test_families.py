"""Every family against transformers, on tiny random weights: a row each."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.formats.exact import lifted
from tests.tolerance import FLOAT64, assert_near, bound, roundings
from torchtune.formats import (
    architecture_from_hf,
    load_hf_weights,
    load_peft_adapter,
    save_hf_folder,
    save_peft_adapter,
)
from torchtune.formats.hf._weights import hf_groups, is_transposed
from torchtune.generation import generate
from torchtune.modules import Decoder, Documents, KVCache, _attention, add_lora, lora_state

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **IDS,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# The name of a configuration class of transformers without `Config`, and what differs from SMALL; `...`: not given.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("Llama", {"num_key_value_heads": 4}),
    "llama3": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}),
    "llama3_1": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("Mistral", {"sliding_window": 7}),
    "mistral_without_window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True, "head_dim": ...}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "phi3": ("Phi3", {"sliding_window": 9, "head_dim": ...}),
    "phi4": ("Phi3", {"head_dim": ..., "num_key_value_heads": 1}),
    "olmo2": ("Olmo2", {"head_dim": ...}),
    "gpt2": (
        "GPT2",
        {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64, "vocab_size": 97, "n_inner": 48, **IDS},
    ),
    "gpt2_of_its_own_width": (
        "GPT2",
        {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64, "vocab_size": 97, **IDS},
    ),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": ("Gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 12, "head_dim": 16}),
    "gemma3": (
        "Gemma3Text",
        {"sliding_window": 5, "query_pre_attn_scalar": 16, "num_hidden_layers": 7, "head_dim": 16},
    ),
}


class Pair(NamedTuple):
    """The same model twice."""

    ours: Decoder
    theirs: Any
    folder: Path


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    import transformers

    name, change = FAMILIES[request.param]
    whole = change if name == "GPT2" else {**SMALL, **change}
    given = {key: value for key, value in whole.items() if value is not ...}
    config = getattr(transformers, f"{name}Config")(**given)
    torch.manual_seed(0)
    with lifted():
        theirs = _eager(transformers.AutoModelForCausalLM.from_config, config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Decoder(architecture_from_hf(json.loads((tmp_path / "theirs/config.json").read_text()))).double()
    load_hf_weights(ours, tmp_path / "theirs")
    return Pair(ours, theirs, tmp_path)


def _eager(make: Any, source: Any) -> Any:
    """Make a model of transformers in float64, whose attention is written out."""
    return make(source, attn_implementation="eager").double().eval()


def rows(count: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 97, (count, length), generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor, bound: float, name: str = "") -> None:
    """Compare tensors by the size of what they differ by, as a share of the expected one's or, if smaller, of one.

    GPT-2's keys have a bias whose gradient is zero but for rounding: without rotations it moves all scores alike.
    """
    assert found.shape == expected.shape, name
    difference, size = (found - expected).detach().norm().item(), expected.detach().norm().item()
    assert difference <= bound * max(1.0, size), name


def test_logits_and_every_gradient_equal_those_of_transformers(pair: Pair) -> None:
    tokens = rows(2, 40)  # past every window, and past the original context of the stretched frequencies
    with lifted():
        expected = pair.theirs(tokens).logits
    logits = pair.ours(tokens)
    close(logits, expected, FLOAT64)
    in_float32 = bound(torch.float32, roundings(pair.ours.architecture, 40))
    close(logits, pair.theirs(tokens).logits, in_float32)  # with its own casts to it
    weights = torch.randn_like(expected)
    with lifted():
        (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    theirs = dict(pair.theirs.named_parameters())
    ours = dict(pair.ours.named_parameters())
    groups = hf_groups(pair.ours.architecture, ours)
    assert groups.keys() == theirs.keys()
    for name, parts in groups.items():
        gradient = torch.cat([_gradient(ours[part]) for part in parts])
        gradient = gradient.T if is_transposed(pair.ours.architecture, name) else gradient
        close(gradient, _gradient(theirs[name]), FLOAT64, name)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_folder_goes_back_bit_for_bit_and_is_the_same_model_there(pair: Pair) -> None:
    from transformers import AutoModelForCausalLM

    save_hf_folder(pair.ours, pair.folder / "ours")
    config = json.loads((pair.folder / "ours/config.json").read_text())
    assert architecture_from_hf(config) == pair.ours.architecture
    with lifted():
        back = _eager(AutoModelForCausalLM.from_pretrained, pair.folder / "ours")
    assert type(back) is type(pair.theirs)
    for name, tensor in pair.theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    tokens = rows(2, 40)
    with lifted():
        close(back(tokens).logits, pair.theirs(tokens).logits, FLOAT64)


def test_right_padding_reaches_no_other_token(pair: Pair) -> None:
    tokens = rows(1, 20)
    padded = torch.cat([tokens, torch.zeros(1, 9, dtype=torch.long)], dim=1)
    close(pair.ours(padded)[:, :20], pair.ours(tokens), FLOAT64)


LENGTHS = [[9, 1, 17, 3], [20, 10]]  # of the documents in two rows, some longer than the windows


@pytest.mark.parametrize("attend_by_mask", [False, True])
def test_packed_documents_are_each_document_alone(
    pair: Pair, attend_by_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attend_by_mask:  # what is done on other devices
        monkeypatch.setattr(_attention, "document_kernel", lambda *_: _attention.attend_by_mask)
    tokens = rows(2, 30)
    weights = torch.randn(2, 30, pair.ours.architecture.vocab_size, dtype=torch.float64)
    packed = pair.ours(tokens, documents=Documents.from_lengths(LENGTHS))
    (packed * weights).sum().backward()
    gradients = {name: _gradient(p).clone() for name, p in pair.ours.named_parameters()}
    pair.ours.zero_grad()
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            alone = pair.ours(tokens[row : row + 1, part])[0]
            close(packed[row, part], alone, FLOAT64)
            (alone * weights[row, part]).sum().backward()
            start += length
    for name, p in pair.ours.named_parameters():
        close(gradients[name], _gradient(p), FLOAT64, name)


@pytest.mark.parametrize("sizes", [[20] + [1] * 10, [7, 11, 1, 1, 10], [1] * 30])
def test_cache_gives_the_logits_of_the_full_forward(pair: Pair, sizes: list[int]) -> None:
    tokens = rows(2, sum(sizes))
    cache = KVCache(pair.ours.architecture.num_layers, 40)
    with torch.no_grad():
        parts = [pair.ours(part, cache=cache) for part in torch.split(tokens, sizes, dim=1)]
        close(torch.cat(parts, dim=1), pair.ours(tokens), FLOAT64)


def test_rows_of_unequal_length_go_on_each_at_its_own_position(pair: Pair) -> None:
    tokens, lengths = rows(2, 24), torch.tensor([13, 20])
    cache = KVCache(pair.ours.architecture.num_layers, 40)
    with torch.no_grad():
        pair.ours(tokens[:, :20], positions=torch.arange(20)[None], cache=cache)
        for step in range(3):
            at = lengths[:, None] + step
            logits = pair.ours(tokens.gather(1, at), positions=at, cache=cache)
            for row in range(2):
                alone = pair.ours(tokens[row : row + 1, : int(at[row]) + 1])
                close(logits[row, 0], alone[0, -1], FLOAT64)


def test_greedy_answer_is_that_of_transformers(pair: Pair) -> None:
    prompt = rows(1, 12, seed=3)
    ours = list(generate(pair.ours, prompt[0].tolist(), max_new_tokens=20, stop_ids=set(), temperature=0.0))
    with lifted():
        theirs = pair.theirs.generate(
            prompt,
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=None,
            attention_mask=torch.ones_like(prompt),
        )
    assert ours == theirs[0, 12:].tolist()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # of peft, to transformers
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["up_proj"]])
def test_adapters_go_to_peft_and_come_back(pair: Pair, targets: Any) -> None:
    from peft import PeftModel

    add_lora(pair.ours, targets, rank=3, alpha=5.0)
    with torch.no_grad():
        for parameter in lora_state(pair.ours).values():
            parameter.normal_(std=0.3)
    save_peft_adapter(pair.ours, pair.folder / "adapter", base_model=None)
    tokens = rows(2, 20)
    expected = pair.ours(tokens)
    with lifted():
        adapted = PeftModel.from_pretrained(pair.theirs, pair.folder / "adapter")
        # peft makes adapters in float32, whose values ours have; they compute in float64 once cast.
        assert_near(adapted.double()(tokens).logits, expected, FLOAT64)
    again = Decoder(pair.ours.architecture).double()
    load_hf_weights(again, pair.folder / "theirs")
    load_peft_adapter(again, pair.folder / "adapter")
    close(again(tokens), expected, FLOAT64)
