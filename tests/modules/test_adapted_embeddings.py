"""Embedding tables and output heads, tied or not, with adapters or trained in full."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.tiny import random_tokens, tiny_smollm2
from tests.modules.adapters import randomize_adapters
from tests.tolerance import FLOAT64, assert_near
from torchtune.modules import (
    Decoder,
    LinearCrossEntropy,
    adapted_layers,
    adapters_disabled,
    add_lora,
    lora_state,
    merge_lora,
    token_log_probs,
)

TARGETS = {True: ["embed_tokens", "q_proj"], False: ["embed_tokens", "lm_head", "q_proj"]}
tied_and_untied = pytest.mark.parametrize("tied", [True, False])


def adapted_model(*, tied: bool, dropout: float = 0.0) -> Decoder:
    model = tiny_smollm2(tied_embeddings=tied)
    add_lora(model, TARGETS[tied], rank=3, alpha=5.0, dropout=dropout)
    randomize_adapters(model, std=0.1)
    return model


@tied_and_untied
def test_new_adapters_on_embeddings_and_head_do_not_change_the_outputs(*, tied: bool) -> None:
    model, tokens = tiny_smollm2(tied_embeddings=tied), random_tokens(2, 9)
    expected = model(tokens)
    add_lora(model, TARGETS[tied], rank=3, alpha=5.0)
    assert torch.equal(model(tokens), expected)
    assert next(name for name, _, _ in adapted_layers(model)) == "embed_tokens"


@tied_and_untied
def test_adapted_embeddings_and_head_match_merged_weights(*, tied: bool) -> None:
    model, tokens = adapted_model(tied=tied), random_tokens(2, 9)
    adapted = model(tokens)
    with adapters_disabled(model):
        plain = model(tokens)
    merge_lora(model)
    assert_near(model(tokens), adapted, FLOAT64)
    assert (plain - adapted).abs().max() > 0.1
    assert (model.embed_tokens.weight is model.head_weight) is tied
    assert not any(p.requires_grad for p in model.parameters())


@tied_and_untied
@pytest.mark.parametrize("is_chunked", [True, False])
def test_chunked_losses_train_an_adapted_head(*, tied: bool, is_chunked: bool) -> None:
    model, tokens = adapted_model(tied=tied), random_tokens(2, 9)
    labels = random_tokens(2, 9).flatten().flip(0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    logits = model(tokens).flatten(0, 1)
    expected = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), parameters)
    hidden = model.hidden(tokens).flatten(0, 1)
    if is_chunked:
        loss: Tensor = LinearCrossEntropy(chunk_size=4)(*model.head(hidden), labels)
    else:
        loss = -token_log_probs(*model.head(hidden), labels, chunk_size=4).sum()
    for gradient, expected_gradient in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        assert_near(gradient, expected_gradient, FLOAT64)
        assert expected_gradient.abs().max() > 0


@tied_and_untied
def test_dropout_applies_to_the_inputs_of_an_adapted_head(*, tied: bool) -> None:
    model, hidden = adapted_model(tied=tied, dropout=0.5), tiny_smollm2().hidden(random_tokens(1, 9))
    model.train()
    torch.manual_seed(0)
    dropped = model.logits(hidden)
    torch.manual_seed(0)
    x, weight = model.head(hidden)
    assert_near(F.linear(x, weight), dropped, FLOAT64)
    assert not torch.allclose(dropped, model.eval().logits(hidden))


def test_small_changes_to_a_bfloat16_head_are_not_rounded_away() -> None:
    """These changes would be lost in a merged bfloat16 weight, which has only 8 significant bits."""
    model = tiny_smollm2(tied_embeddings=False).bfloat16()
    torch.nn.init.ones_(model.lm_head.weight)
    add_lora(model, ["lm_head"], rank=1, alpha=1.0)
    state = lora_state(model)
    state["lm_head.adapter.lora_a"].fill_(1e-3)
    state["lm_head.adapter.lora_b"].fill_(1.0)
    hidden = torch.ones(1, 64, dtype=torch.bfloat16)
    x, weight = model.head(hidden)
    change = (x.double() @ weight.double().T - hidden.double() @ model.head_weight.double().T)[0, 0]
    assert change.item() == pytest.approx(64e-3, rel=2**-7)


@tied_and_untied
def test_modules_to_save_are_trained_in_full(*, tied: bool) -> None:
    model = tiny_smollm2(tied_embeddings=tied)
    modules = ["embed_tokens", "norm"] if tied else ["embed_tokens", "lm_head", "norm"]
    add_lora(model, ["q_proj"], rank=3, alpha=5.0, modules_to_save=modules)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and ".adapter." not in name}
    assert trained == {f"{name}.weight" for name in modules}
    assert trained <= lora_state(model).keys()
    with (
        pytest.raises(ValueError, match=r"embed_tokens.weight is trained in full, so disabling the adapters"),
        adapters_disabled(model),
    ):
        pass


@pytest.mark.parametrize(
    ("targets", "modules", "message"),
    [
        (
            ["lm_head"],
            [],
            r"no lm_head: its output head is tied to the embedding table; use embed_tokens, which",
        ),
        (
            ["q_proj"],
            ["lm_head"],
            r"no lm_head: its output head is tied to the embedding table; use embed_tokens",
        ),
        (
            ["q_proj"],
            ["head"],
            r"no module of the model matches head \(modules_to_save\); expected .*, embed_tokens,",
        ),
        (
            ["embed_tokens"],
            ["embed_tokens"],
            r"embed_tokens is in both targets \(adapted\) and modules_to_save",
        ),
        (["q_proj"], ["layers.0"], r"layers.0.self_attn.q_proj is in both targets \(adapted\) and"),
    ],
)
def test_error_lists_invalid_modules_to_save(targets: list[str], modules: list[str], message: str) -> None:
    model = tiny_smollm2()
    with pytest.raises(ValueError, match=message):
        add_lora(model, targets, rank=3, alpha=5.0, modules_to_save=modules)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_dora_on_embeddings_and_head_is_rejected(target: str) -> None:
    with pytest.raises(
        ValueError, match="dora does not adapt embed_tokens or lm_head; use kind lora, or train"
    ):
        add_lora(tiny_smollm2(tied_embeddings=False), [target], rank=3, alpha=5.0, kind="dora")
