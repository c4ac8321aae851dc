"""Logits and gradients of the decoder, compared with the formulas of the papers."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.modules.reference import TINY, reference_logits
from tests.tolerance import FLOAT64, assert_near, distance, norm_bound
from torchtune.modules import Architecture, Decoder


def random_decoder(architecture: Architecture = TINY, seed: int = 0) -> Decoder:
    """Build a float64 decoder whose weights, including those of norms, are random and of order one."""
    torch.manual_seed(seed)
    model = Decoder(architecture).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.mark.parametrize("tied_embeddings", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_logits_match_the_published_formulas(num_kv_heads: int, *, tied_embeddings: bool) -> None:
    model = random_decoder(TINY.evolve(num_kv_heads=num_kv_heads, tied_embeddings=tied_embeddings))
    rows = torch.randint(TINY.vocab_size, (2, 7))
    expected = [reference_logits(model, row) for row in rows.tolist()]
    np.testing.assert_allclose(model(rows).detach().numpy(), expected, rtol=FLOAT64, atol=FLOAT64)


def test_gradients_match_finite_differences() -> None:
    model = random_decoder(TINY.evolve(num_layers=1, vocab_size=5))
    tokens = torch.tensor([[1, 4, 2]])
    parameters = dict(model.named_parameters())

    def loss(*values: torch.Tensor) -> torch.Tensor:
        values_by_name = dict(zip(parameters, values, strict=True))
        logits: torch.Tensor = torch.func.functional_call(model, values_by_name, tokens)
        return logits.square().sum()

    values = tuple(parameter.detach().requires_grad_() for parameter in parameters.values())
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


def test_right_padding_does_not_affect_other_tokens() -> None:
    model = random_decoder()
    tokens = torch.randint(TINY.vocab_size, (1, 6))
    padded = torch.cat([tokens, torch.randint(TINY.vocab_size, (1, 3))], dim=1)
    assert_near(model(padded)[:, :6], model(tokens), FLOAT64)


def test_logits_depend_only_on_relative_positions() -> None:
    model = random_decoder()
    tokens = torch.randint(TINY.vocab_size, (2, 6))
    moved = torch.arange(6)[None] + torch.tensor([[0], [7]])  # each row is shifted by a different offset
    assert_near(model(tokens, positions=moved), model(tokens), FLOAT64)
    assert not torch.allclose(model(tokens, positions=2 * moved), model(tokens))


def test_loading_parameters_completes_a_model_built_on_the_meta_device() -> None:
    model = random_decoder()
    with torch.device("meta"):
        other = Decoder(TINY).double()
    other.to_empty(device="cpu").load_state_dict(model.state_dict())
    tokens = torch.randint(TINY.vocab_size, (1, 6))
    torch.testing.assert_close(other(tokens), model(tokens), rtol=0, atol=0)


def test_random_weights_are_finite_and_depend_only_on_the_seed() -> None:
    torch.manual_seed(3)
    model = Decoder(TINY)
    with torch.device("meta"):
        other = Decoder(TINY)
    other.to_empty(device="cpu")
    other.init_weights()
    assert all(t.isfinite().all() for t in other.state_dict().values())
    torch.manual_seed(3)
    repeated = Decoder(TINY)
    torch.testing.assert_close(repeated.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert 0.015 < model.embed_tokens.weight.std() < 0.025
    assert torch.equal(model.get_parameter("norm.weight"), torch.ones(TINY.embed_dim))


def test_bfloat16_is_as_accurate_as_its_8_bits_allow() -> None:
    model = random_decoder(TINY.evolve(max_seq_len=512))
    tokens = torch.randint(TINY.vocab_size, (1, 512))
    rounded = model.bfloat16()(tokens).double()
    expected = model.double()(tokens)  # uses the rounded weights, so that only the computation differs
    assert rounded.dtype == torch.float64
    # Each of the two layers rounds ten consecutive results; then the final norm and the logits are rounded.
    assert distance(rounded, expected) < norm_bound(torch.bfloat16, 2 * 10 + 2)


@pytest.mark.slow
def test_the_decoder_compiles_without_graph_breaks() -> None:
    model = random_decoder()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for length in 5, 9:
        tokens = torch.randint(TINY.vocab_size, (2, length))
        assert_near(compiled(tokens), model(tokens), FLOAT64)


def test_a_sequence_beyond_max_seq_len_is_rejected() -> None:
    with pytest.raises(ValueError, match="17 tokens exceeds max_seq_len = 16 of the model"):
        Decoder(TINY)(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
        ({"head_dim": 5}, "head_dim = 5 is odd"),
        ({"num_layers": 0}, "'num_layers' must be > 0"),
    ],
)
def test_invalid_sizes_are_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TINY.evolve(**change)
