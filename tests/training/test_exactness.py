"""Steps with all optimizations match a plain float64 implementation: losses, gradients and 50 training steps."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tests.modules.kernels import use_kernel
from tests.modules.loss_settings import HARDWARE, loss_settings_of
from tests.modules.reference import TINY
from tests.tolerance import FLOAT64, assert_as_near, bound, distance, norm_bound, rms_error, roundings
from tests.training.tiny import SINGLE_RANK, place, step_loss
from torchtune.config import lazy
from torchtune.data import IGNORE_INDEX, Batch, Example, collate, pack
from torchtune.modules import Architecture, Decoder, LinearCrossEntropy
from torchtune.placement import DTYPES
from torchtune.training import Lora, build_optimizer

SMALL = TINY.evolve(vocab_size=61, embed_dim=24, head_dim=8, ffn_dim=40, max_seq_len=64)
FAMILIES: dict[str, Architecture] = {
    "llama": SMALL,
    "qwen3": SMALL.evolve(qk_norm="head", tied_embeddings=True),
    "gemma": SMALL.evolve(
        activation="gelu_tanh",
        norm_layout="both",
        norm_offset=1.0,
        qk_norm="head",
        embed_scale=24**0.5,
        window=6,
        full_attention_every=2,
        rope_local_base=500.0,
        tied_embeddings=True,
    ),
}
LORA = Lora(targets=["all-linear"], rank=4, alpha=8.0)
ERROR_BOUND = bound(torch.float32, 3 * roundings(SMALL, 45))
"""Bound on float32 rounding errors in losses and gradients; documents have up to 45 tokens."""


@pytest.fixture(params=HARDWARE)
def hardware(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the loss settings for a CPU with or without AMX, or for a GPU, but the CPU's kernel for packed rows."""
    use_kernel(monkeypatch, "per_document")
    with loss_settings_of(request.param):
        yield


def rows(n: int, seed: int = 0) -> list[Example]:
    """Return random examples of uneven lengths; about half of the tokens are targets."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i in range(n):
        length = 6 + int(torch.randint(20, (), generator=generator))
        tokens = torch.randint(61, (length,), generator=generator).tolist()
        n_masked = 1 + i % (length // 2)
        result.append(Example(tokens, [IGNORE_INDEX] * n_masked + tokens[n_masked:]))
    return result


def prepend_prefix(examples: list[Example], n: int) -> list[Example]:
    """Prepend the same n tokens, without targets, to each example."""
    prefix = [i * 7 % 61 for i in range(n)]
    return [Example(prefix + e.tokens, [IGNORE_INDEX] * n + e.labels) for e in examples]


def packed(examples: list[Example], length: int = 48) -> list[Batch]:
    """Pack examples, and build batches of two packs."""
    groups = pack([len(example.tokens) - 1 for example in examples], length)
    packs = [[examples[i] for i in group] for group in groups]
    return [collate(packs[i : i + 2], 0, share_prefixes=True) for i in range(0, len(packs), 2)]


def build_model(architecture: Architecture, lora: Lora | None, dtype: str, *, lean_layers: bool) -> Decoder:
    """Build a model whose weights do not depend on the precision."""
    with torch.device("meta"):
        model = Decoder(architecture)
    if lora is not None:
        lora.add_to(model)
    place(model, SINGLE_RANK, dtype=dtype, lean_layers=lean_layers, compile=False)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            value = torch.randn(parameter.shape, generator=generator) * (0.25 if parameter.dim() > 1 else 0.1)
            parameter.copy_((value + (parameter.dim() == 1)).bfloat16())
    return model


def gradients(model: Decoder) -> dict[str, Tensor]:
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def compute_separately(
    architecture: Architecture, lora: Lora | None, examples: list[Example], dtype: str = "fp64"
) -> tuple[float, dict[str, Tensor]]:
    """Compute each example separately, with standard layers and all logits; return float64 losses and gradients."""
    model = build_model(architecture, lora, dtype, lean_layers=False).to(DTYPES[dtype])
    total = 0.0
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in trained.items()}
    for example in examples:
        batch = collate([example], 0)
        logits = model(batch.tokens)[0]
        loss = nn.functional.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            batch.labels[0],
            ignore_index=IGNORE_INDEX,
            reduction="sum",
        )
        torch.autograd.backward(loss)
        total += loss.item()
        for name, gradient in gradients(model).items():
            sums[name] += gradient
        model.zero_grad()
    return total, sums


def compute_packed(
    architecture: Architecture,
    lora: Lora | None,
    dtype: str,
    examples: list[Example],
    *,
    lean_layers: bool,
    length: int = 48,
) -> tuple[float, dict[str, Tensor]]:
    """Compute packed examples as a recipe does; return the loss and gradients."""
    model, loss_fn = (
        build_model(architecture, lora, dtype, lean_layers=lean_layers),
        step_loss(LinearCrossEntropy(), dtype),
    )
    total = 0.0
    batches = packed(examples, length)
    assert any(batch.spans for batch in batches)
    for batch in batches:
        loss = loss_fn(model, batch)
        torch.autograd.backward(loss)
        total += loss.item()
    return total, gradients(model)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_match_the_plain_implementation(family: str, lora: Lora | None) -> None:
    examples = rows(14)
    exact_loss, exact = compute_separately(FAMILIES[family], lora, examples)
    _, plain = compute_separately(FAMILIES[family], lora, examples, "fp32")
    loss, actual = compute_packed(FAMILIES[family], lora, "fp32", examples, lean_layers=True)
    assert loss == pytest.approx(exact_loss, rel=ERROR_BOUND)
    assert_as_near(actual, plain, exact, ERROR_BOUND)


@pytest.mark.quick_cases(1)
@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_errors_are_comparable_to_the_plain_implementation(family: str, lora: Lora | None) -> None:
    examples = rows(14)
    exact_loss, exact = compute_separately(FAMILIES[family], lora, examples)
    plain_loss, plain = compute_separately(FAMILIES[family], lora, examples, "bf16")
    loss, actual = compute_packed(FAMILIES[family], lora, "bf16", examples, lean_layers=True)
    assert abs(loss - exact_loss) < bound(torch.bfloat16, 1, exact_loss) + 2 * abs(plain_loss - exact_loss)
    assert_as_near(actual, plain, exact, rms_error(torch.bfloat16, 1), factor=2)
    assert distance(plain, exact) < 0.5, "the reference must not be mostly noise"


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_is_computed_once(family: str, lora: Lora | None) -> None:
    examples = prepend_prefix(rows(9), 20)
    batches = packed(examples, 100)
    assert all(max(span.prefix_length for span in batch.spans) == 20 for batch in batches)
    assert sum(batch.tokens.numel() for batch in batches) < sum(len(e.tokens) - 1 for e in examples)
    exact_loss, exact = compute_separately(FAMILIES[family], lora, examples)
    loss, actual = compute_packed(FAMILIES[family], lora, "fp64", examples, lean_layers=False, length=100)
    assert loss == pytest.approx(exact_loss, rel=FLOAT64)
    assert distance(actual, exact) < FLOAT64
    _, plain = compute_separately(FAMILIES[family], lora, examples, "fp32")
    loss, actual = compute_packed(FAMILIES[family], lora, "fp32", examples, lean_layers=True, length=100)
    assert loss == pytest.approx(exact_loss, rel=ERROR_BOUND)
    assert_as_near(actual, plain, exact, ERROR_BOUND)


def run(architecture: Architecture, dtype: str, *, lean_layers: bool) -> list[float]:
    """Train adapters for fifty steps; return the losses."""
    model = build_model(architecture, LORA, dtype, lean_layers=lean_layers)
    loss_fn = step_loss(LinearCrossEntropy(), dtype)
    optimizer = build_optimizer(lazy(AdamW, lr=3e-3, fused=True), model)
    losses = []
    for step in range(50):
        (batch, *_) = packed(rows(6, seed=step))
        loss = loss_fn(model, batch) / batch.n_targets
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@cache
def exact_losses(family: str) -> Tensor:
    return torch.tensor(run(FAMILIES[family], "fp64", lean_layers=False), dtype=torch.float64)


def losses(family: str, dtype: str, *, lean_layers: bool) -> Tensor:
    return torch.tensor(run(FAMILIES[family], dtype, lean_layers=lean_layers), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_fifty_steps_match_the_plain_implementation(family: str) -> None:
    plain, actual = (losses(family, "fp32", lean_layers=lean_layers) for lean_layers in (False, True))
    # Rounding errors accumulate over fifty steps.
    error_bound = norm_bound(torch.float32, 50 * 3 * roundings(SMALL, 25))
    assert_as_near(actual, plain, exact_losses(family), error_bound)


@pytest.mark.slow
@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_losses_over_fifty_steps_are_unbiased(family: str) -> None:
    exact = exact_losses(family)
    plain, actual = (losses(family, "bf16", lean_layers=lean_layers) for lean_layers in (False, True))
    assert_as_near(actual, plain, exact, rms_error(torch.bfloat16, 1))
    relative_error = (actual - exact) / exact.mean()
    # If rounding errors are unbiased and independent, their mean is within four standard errors of zero. Weights carry
    # rounding errors to later steps, so half of the unit roundoff is added.
    standard_error = float(relative_error.std()) / 50**0.5
    assert abs(float(relative_error.mean())) < 4 * standard_error + torch.finfo(torch.bfloat16).eps / 4
