"""All that makes a step fast and small together, beside the plain path in float64: losses, gradients, fifty steps."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tests.modules.reference import TINY
from tests.tolerance import FLOAT64, assert_as_near, bound, distance, norm_bound, rms_error, roundings
from tests.training.tiny import ALONE, place, step_loss
from torchtune.config import lazy
from torchtune.data import IGNORE_INDEX, Batch, Example, collate, pack
from torchtune.modules import Architecture, Decoder, LinearCrossEntropy, _linear_cross_entropy
from torchtune.training import DTYPES, Lora, build_optimizer

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
ROUNDED = bound(torch.float32, 3 * roundings(SMALL, 45))
"""What roundings to float32 may come to in losses and gradients; documents have up to 45 tokens."""


@pytest.fixture(params=[False, True], ids=["without AMX", "with AMX"])
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss compute as on a processor without AMX, or with it."""
    monkeypatch.setattr(_linear_cross_entropy, "_has_units_for_bfloat16", lambda: request.param)


def rows(n: int, seed: int = 0) -> list[Example]:
    """Draw rows of uneven lengths, of which about half is given."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for i in range(n):
        length = 6 + int(torch.randint(20, (), generator=draw))
        tokens = torch.randint(61, (length,), generator=draw).tolist()
        n_given = 1 + i % (length // 2)
        found.append(Example(tokens, [IGNORE_INDEX] * n_given + tokens[n_given:]))
    return found


def beginning_alike(examples: list[Example], n: int) -> list[Example]:
    """Put the same tokens before each, which are given."""
    before = [i * 7 % 61 for i in range(n)]
    return [Example(before + e.tokens, [IGNORE_INDEX] * n + e.labels) for e in examples]


def packed(examples: list[Example], length: int = 48) -> list[Batch]:
    """Pack rows, two to a batch."""
    groups = pack([len(example.tokens) - 1 for example in examples], length)
    together = [[examples[i] for i in group] for group in groups]
    return [collate(together[i : i + 2], 0, share_prefixes=True) for i in range(0, len(together), 2)]


def model_of(architecture: Architecture, lora: Lora | None, dtype: str, *, lean_layers: bool) -> Decoder:
    """Place a model whose weights are the same whatever the precision."""
    with torch.device("meta"):
        model = Decoder(architecture)
    if lora is not None:
        lora.add_to(model)
    place(model, ALONE, dtype=dtype, lean_layers=lean_layers)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            value = torch.randn(parameter.shape, generator=draw) * (0.25 if parameter.dim() > 1 else 0.1)
            parameter.copy_((value + (parameter.dim() == 1)).bfloat16())
    return model


def gradients(model: Decoder) -> dict[str, Tensor]:
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def one_by_one(
    architecture: Architecture, lora: Lora | None, examples: list[Example], dtype: str = "fp64"
) -> tuple[float, dict[str, Tensor]]:
    """Take each row alone through plain layers of one precision, with all logits; sum in float64."""
    model = model_of(architecture, lora, dtype, lean_layers=False).to(DTYPES[dtype])
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


def in_batches(
    architecture: Architecture,
    lora: Lora | None,
    dtype: str,
    examples: list[Example],
    *,
    lean_layers: bool,
    length: int = 48,
) -> tuple[float, dict[str, Tensor]]:
    """Take packed rows through what a recipe takes them through."""
    model, loss_fn = (
        model_of(architecture, lora, dtype, lean_layers=lean_layers),
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


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_plain_path(family: str, lora: Lora | None) -> None:
    examples = rows(14)
    exact_loss, exact = one_by_one(FAMILIES[family], lora, examples)
    _, plain = one_by_one(FAMILIES[family], lora, examples, "fp32")
    loss, ours = in_batches(FAMILIES[family], lora, "fp32", examples, lean_layers=True)
    assert loss == pytest.approx(exact_loss, rel=ROUNDED)
    assert_as_near(ours, plain, exact, ROUNDED)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_they_are_as_near_as_those_of_the_plain_path(family: str, lora: Lora | None) -> None:
    examples = rows(14)
    exact_loss, exact = one_by_one(FAMILIES[family], lora, examples)
    plain_loss, plain = one_by_one(FAMILIES[family], lora, examples, "bf16")
    loss, ours = in_batches(FAMILIES[family], lora, "bf16", examples, lean_layers=True)
    assert abs(loss - exact_loss) < bound(torch.bfloat16, 1, exact_loss) + 2 * abs(plain_loss - exact_loss)
    assert_as_near(ours, plain, exact, rms_error(torch.bfloat16, 1), factor=2)
    assert distance(plain, exact) < 0.5, "what it is compared with is mostly noise"


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_rows_begin_with_alike_is_computed_once(family: str, lora: Lora | None) -> None:
    examples = beginning_alike(rows(9), 20)
    batches = packed(examples, 100)
    assert all(max(span.prefix_length for span in batch.spans) == 20 for batch in batches)
    assert sum(batch.tokens.numel() for batch in batches) < sum(len(e.tokens) - 1 for e in examples)
    exact_loss, exact = one_by_one(FAMILIES[family], lora, examples)
    loss, ours = in_batches(FAMILIES[family], lora, "fp64", examples, lean_layers=False, length=100)
    assert loss == pytest.approx(exact_loss, rel=FLOAT64)
    assert distance(ours, exact) < FLOAT64
    _, plain = one_by_one(FAMILIES[family], lora, examples, "fp32")
    loss, ours = in_batches(FAMILIES[family], lora, "fp32", examples, lean_layers=True, length=100)
    assert loss == pytest.approx(exact_loss, rel=ROUNDED)
    assert_as_near(ours, plain, exact, ROUNDED)


def run(architecture: Architecture, dtype: str, *, lean_layers: bool) -> list[float]:
    """Train adapters for fifty steps, and return the losses."""
    model = model_of(architecture, LORA, dtype, lean_layers=lean_layers)
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
def exact_run(family: str) -> Tensor:
    return torch.tensor(run(FAMILIES[family], "fp64", lean_layers=False), dtype=torch.float64)


def losses(family: str, dtype: str, *, lean_layers: bool) -> Tensor:
    return torch.tensor(run(FAMILIES[family], dtype, lean_layers=lean_layers), dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_fifty_steps_are_those_of_the_plain_path(family: str) -> None:
    plain, ours = (losses(family, "fp32", lean_layers=lean_layers) for lean_layers in (False, True))
    # Each step starts where the roundings of those before it have led: fifty times as many in a row.
    allowed = norm_bound(torch.float32, 50 * 3 * roundings(SMALL, 25))
    assert_as_near(ours, plain, exact_run(family), allowed)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("family", FAMILIES)
def test_fifty_steps_in_bfloat16_are_not_biased(family: str) -> None:
    exact = exact_run(family)
    plain, ours = (losses(family, "bf16", lean_layers=lean_layers) for lean_layers in (False, True))
    assert_as_near(ours, plain, exact, rms_error(torch.bfloat16, 1))
    off = (ours - exact) / exact.mean()
    # Roundings move losses up and down, so that their mean would be within four standard errors of zero if steps were
    # independent. Weights carry what was rounded to later steps: half of u is added.
    error = float(off.std()) / 50**0.5
    assert abs(float(off.mean())) < 4 * error + torch.finfo(torch.bfloat16).eps / 4
