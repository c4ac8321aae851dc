import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tolerance import FLOAT64, assert_as_near, assert_near, bound, rms_error
from tests.training.tiny import examples, make_batch, step_loss, tiny_model
from torchtune.data import IGNORE_INDEX, Example
from torchtune.modules import LinearCrossEntropy
from torchtune.training import Lora, clip_gradients

LOSSES = [LinearCrossEntropy(reduction="sum", chunk_size=3), nn.CrossEntropyLoss(reduction="sum")]


def backward(total: Tensor) -> None:
    torch.autograd.backward(total)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_step_loss_matches_the_cross_entropy_of_the_full_logits(loss: nn.Module) -> None:
    batch, actual, plain = make_batch(examples()), tiny_model(), tiny_model()
    total = step_loss(loss, "fp64")(actual, batch)
    backward(total)
    expected = F.cross_entropy(
        plain(batch.tokens).flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    backward(expected)
    assert_near(total, expected, FLOAT64)
    assert_near(gradients(actual), gradients(plain), FLOAT64)


def test_uneven_micro_batches_have_the_gradient_of_one_large_batch() -> None:
    rows, full, split = examples(), tiny_model(), tiny_model()
    loss_fn = step_loss(LOSSES[0], "fp64")
    n_targets = make_batch(rows).n_targets
    backward(loss_fn(full, make_batch(rows)) / n_targets)
    parts = [rows[:1], rows[1:3], rows[3:4], rows[4:]]
    assert len({make_batch(part).n_targets for part in parts}) == len(parts)
    for part in parts:
        backward(loss_fn(split, make_batch(part)) / n_targets)
    assert_near(gradients(split), gradients(full), FLOAT64)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_batch_without_a_target_has_zero_loss_and_gradients(loss: nn.Module) -> None:
    model = tiny_model()
    total = step_loss(loss, "fp64")(model, make_batch([Example([1, 2, 3], [IGNORE_INDEX] * 3)]))
    backward(total)
    assert total.item() == 0
    assert set(gradients(model)) == {name for name, _ in model.named_parameters()}
    assert not any(gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize("lora", [None, Lora(targets=["all-linear"], rank=3)], ids=["full", "lora"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_bf16_gradients_are_fp32_and_as_accurate_as_in_a_bf16_model(
    loss: nn.Module, lora: Lora | None
) -> None:
    batch, actual = make_batch(examples()), tiny_model("bf16", lora)
    exact, plain = tiny_model("fp64", lora), tiny_model("bf16", lora).bfloat16()
    with torch.no_grad():
        for p, source in zip(exact.parameters(), actual.parameters(), strict=True):
            p.copy_(source)
    backward(step_loss(loss, "bf16")(actual, batch))
    for model in (exact, plain):
        logits = model(batch.tokens).flatten(0, 1)
        float_logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        backward(
            F.cross_entropy(float_logits, batch.labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        )
    assert {gradient.dtype for gradient in gradients(actual).values()} == {torch.float32}
    assert gradients(actual).keys() == gradients(exact).keys()
    for name, gradient in gradients(exact).items():
        one_rounding = rms_error(torch.bfloat16, 1)
        assert_as_near(gradients(actual)[name], gradients(plain)[name], gradient, one_rounding, factor=2)


def test_loss_on_logits_receives_fp32_logits() -> None:
    class Probe(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            assert logits.dtype == torch.float32
            assert logits.shape[:1] == labels.shape
            return logits.sum()

    step_loss(Probe(), "bf16")(tiny_model("bf16"), make_batch(examples()))


def test_clipping_scales_to_the_maximum_norm_and_returns_the_original_norm() -> None:
    model = nn.Linear(2, 2, bias=False)
    for max_norm, remaining in ((None, 10.0), (20.0, 10.0), (5.0, 5.0)):
        model.weight.grad = torch.tensor([[6.0, 0.0], [0.0, 8.0]])
        assert clip_gradients(model, max_norm) == 10.0
        # The sum of four squares, its root and a product are rounded; torch divides by the norm, 10, plus 1e-6.
        assert model.weight.grad.norm().item() == pytest.approx(
            remaining, rel=bound(torch.float32, 4 + 3) + 1e-7
        )


def test_the_norm_of_a_non_finite_gradient_is_not_finite() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.grad = torch.tensor([[float("inf"), 1.0], [2.0, 3.0]])
    assert clip_gradients(model, 1.0) == float("inf")


def test_a_gradient_is_unscaled_before_it_is_clipped() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.grad = 64 * torch.tensor([[6.0, 0.0], [0.0, 8.0]])
    assert clip_gradients(model, None, 64.0) == 10.0
    assert model.weight.grad.tolist() == [[6.0, 0.0], [0.0, 8.0]]
