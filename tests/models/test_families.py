"""A tiny model of every family, with random weights, compared with transformers."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.formats.float64 import float64_transformers
from tests.modules.kernels import uncompiled_flex, use_kernel
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
from torchtune.modules import Decoder, Documents, KVCache, add_lora, lora_state
from torchtune.modules._attention_kernels import Kernel

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

# Names of transformers' config classes without `Config`, and values that differ from SMALL; `...` omits a value.
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
    "gpt2_default_ffn": (
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
    """A model in both torchtune and transformers."""

    model: Decoder
    reference: Any
    folder: Path


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    import transformers

    name, change = FAMILIES[request.param]
    settings = change if name == "GPT2" else {**SMALL, **change}
    arguments = {key: value for key, value in settings.items() if value is not ...}
    config = getattr(transformers, f"{name}Config")(**arguments)
    torch.manual_seed(0)
    with float64_transformers():
        reference = _eager(transformers.AutoModelForCausalLM.from_config, config)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(std=0.4)
    reference.save_pretrained(tmp_path / "reference")
    model = Decoder(
        architecture_from_hf(json.loads((tmp_path / "reference/config.json").read_text()))
    ).double()
    load_hf_weights(model, tmp_path / "reference")
    return Pair(model, reference, tmp_path)


def _eager(factory: Any, source: Any) -> Any:
    """Build a float64 transformers model with eager attention."""
    return factory(source, attn_implementation="eager").double().eval()


def rows(count: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 97, (count, length), generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, expected: Tensor, bound: float, name: str = "") -> None:
    """Check the norm of the difference, relative to the norm of the expected tensor or to 1, whichever is larger.

    The gradient of GPT-2's key biases is zero up to rounding: without rotary embeddings, they shift all scores equally.
    """
    assert actual.shape == expected.shape, name
    difference, size = (actual - expected).detach().norm().item(), expected.detach().norm().item()
    assert difference <= bound * max(1.0, size), name


def test_logits_and_every_gradient_match_transformers(pair: Pair) -> None:
    tokens = rows(2, 40)  # longer than every sliding window and the original context of scaled frequencies
    with float64_transformers():
        expected = pair.reference(tokens).logits
    logits = pair.model(tokens)
    assert_close(logits, expected, FLOAT64)
    in_float32 = bound(torch.float32, roundings(pair.model.architecture, 40))
    assert_close(logits, pair.reference(tokens).logits, in_float32)  # with transformers' casts to float32
    weights = torch.randn_like(expected)
    with float64_transformers():
        (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    reference_parameters = dict(pair.reference.named_parameters())
    parameters = dict(pair.model.named_parameters())
    groups = hf_groups(pair.model.architecture, parameters)
    assert groups.keys() == reference_parameters.keys()
    for name, parts in groups.items():
        gradient = torch.cat([_gradient(parameters[part]) for part in parts])
        gradient = gradient.T if is_transposed(pair.model.architecture, name) else gradient
        assert_close(gradient, _gradient(reference_parameters[name]), FLOAT64, name)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.quick_cases(6)
def test_saved_folders_are_bit_identical_and_load_in_transformers(pair: Pair) -> None:
    from transformers import AutoModelForCausalLM

    save_hf_folder(pair.model, pair.folder / "saved")
    config = json.loads((pair.folder / "saved/config.json").read_text())
    assert architecture_from_hf(config) == pair.model.architecture
    with float64_transformers():
        reloaded = _eager(AutoModelForCausalLM.from_pretrained, pair.folder / "saved")
    assert type(reloaded) is type(pair.reference)
    for name, tensor in pair.reference.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], tensor), name
    tokens = rows(2, 40)
    with float64_transformers():
        assert_close(reloaded(tokens).logits, pair.reference(tokens).logits, FLOAT64)


def test_right_padding_does_not_affect_other_tokens(pair: Pair) -> None:
    tokens = rows(1, 20)
    padded = torch.cat([tokens, torch.zeros(1, 9, dtype=torch.long)], dim=1)
    assert_close(pair.model(padded)[:, :20], pair.model(tokens), FLOAT64)


LENGTHS = [[9, 1, 17, 3], [20, 10]]  # document lengths in two rows; some are longer than the sliding windows


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize("kernel", ["per_document", "flex", "scores"])
def test_packed_documents_match_separate_documents(
    pair: Pair, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_kernel(monkeypatch, kernel)
    tokens = rows(2, 30)
    weights = torch.randn(2, 30, pair.model.architecture.vocab_size, dtype=torch.float64)
    with uncompiled_flex():
        packed = pair.model(tokens, documents=Documents.from_lengths(LENGTHS))
        (packed * weights).sum().backward()
    monkeypatch.undo()
    gradients = {name: _gradient(p).clone() for name, p in pair.model.named_parameters()}
    pair.model.zero_grad()
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            separate = pair.model(tokens[row : row + 1, part])[0]
            assert_close(packed[row, part], separate, FLOAT64)
            (separate * weights[row, part]).sum().backward()
            start += length
    for name, p in pair.model.named_parameters():
        assert_close(gradients[name], _gradient(p), FLOAT64, name)


@pytest.mark.quick_cases(7)
@pytest.mark.parametrize("sizes", [[20] + [1] * 10, [7, 11, 1, 1, 10], [1] * 30])
def test_cached_logits_match_the_full_sequence(pair: Pair, sizes: list[int]) -> None:
    tokens = rows(2, sum(sizes))
    cache = KVCache(pair.model.architecture.num_layers, 40)
    with torch.no_grad():
        parts = [pair.model(part, cache=cache) for part in torch.split(tokens, sizes, dim=1)]
        assert_close(torch.cat(parts, dim=1), pair.model(tokens), FLOAT64)


@pytest.mark.quick_cases(9)
def test_rows_of_unequal_length_continue_at_their_positions(pair: Pair) -> None:
    tokens, lengths = rows(2, 24), torch.tensor([13, 20])
    cache = KVCache(pair.model.architecture.num_layers, 40)
    with torch.no_grad():
        pair.model(tokens[:, :20], positions=torch.arange(20)[None], cache=cache)
        for step in range(3):
            positions = lengths[:, None] + step
            logits = pair.model(tokens.gather(1, positions), positions=positions, cache=cache)
            for row in range(2):
                separate = pair.model(tokens[row : row + 1, : int(positions[row]) + 1])
                assert_close(logits[row, 0], separate[0, -1], FLOAT64)


@pytest.mark.quick_cases(2)
def test_greedy_answers_match_transformers(pair: Pair) -> None:
    prompt = rows(1, 12, seed=3)
    answer = list(
        generate(pair.model, prompt[0].tolist(), max_new_tokens=20, stop_ids=set(), temperature=0.0)
    )
    with float64_transformers():
        reference_tokens = pair.reference.generate(
            prompt,
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=None,
            attention_mask=torch.ones_like(prompt),
        )
    assert answer == reference_tokens[0, 12:].tolist()


@pytest.mark.quick_cases(6)
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # warnings from PEFT
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["up_proj"]])
def test_saved_adapters_load_in_peft_and_torchtune(pair: Pair, targets: Any) -> None:
    from peft import PeftModel

    add_lora(pair.model, targets, rank=3, alpha=5.0)
    with torch.no_grad():
        for parameter in lora_state(pair.model).values():
            parameter.normal_(std=0.3)
    save_peft_adapter(pair.model, pair.folder / "adapter", base_model=None)
    tokens = rows(2, 20)
    expected = pair.model(tokens)
    with float64_transformers():
        adapted = PeftModel.from_pretrained(pair.reference, pair.folder / "adapter")
        # PEFT creates adapters in float32, as torchtune does; after a cast, they compute in float64.
        assert_near(adapted.double()(tokens).logits, expected, FLOAT64)
    loaded = Decoder(pair.model.architecture).double()
    load_hf_weights(loaded, pair.folder / "reference")
    load_peft_adapter(loaded, pair.folder / "adapter")
    assert_close(loaded(tokens), expected, FLOAT64)
