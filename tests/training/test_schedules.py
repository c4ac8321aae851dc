import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, SparseAdam
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from torchtune.config import Component, lazy
from torchtune.training import (
    Schedule,
    build_optimizer,
    build_scheduler,
    constant_with_warmup,
    cosine_with_warmup,
    linear_with_warmup,
    warmup_stable_decay,
)

PEAK = 0.5


def rates(component: Component[LRScheduler] | None, steps: int) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = build_scheduler(component, optimizer, steps)
    result = []
    for _ in range(steps):
        result.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return result


def test_cosine_follows_its_closed_form_after_a_linear_warm_up() -> None:
    result = rates(lazy(cosine_with_warmup, warmup_steps=4, min_ratio=0.1), 24)
    warm_up = [PEAK * i / 4 for i in (1, 2, 3, 4)]
    curve = [PEAK * (0.1 + 0.9 * math.cos(math.pi * i / 40) ** 2) for i in range(20)]
    assert result == pytest.approx(warm_up + curve)


def test_linear_decay_is_linear_and_ends_one_step_above_zero() -> None:
    result = rates(lazy(linear_with_warmup, warmup_steps=2), 7)
    assert result == pytest.approx([PEAK * x for x in (0.5, 1, 1, 0.8, 0.6, 0.4, 0.2)])


def test_constant_stays_at_the_peak_with_or_without_a_component() -> None:
    assert rates(lazy(constant_with_warmup, warmup_steps=2), 4) == [PEAK / 2, PEAK, PEAK, PEAK]
    assert rates(None, 3) == [PEAK] * 3


def test_configured_total_steps_override_the_run_length() -> None:
    assert rates(lazy(linear_with_warmup, total_steps=4), 6) == pytest.approx([0.5, 0.375, 0.25, 0.125, 0, 0])


def test_torch_schedulers_receive_total_steps_if_they_accept_it() -> None:
    assert rates(lazy(StepLR, step_size=2), 4) == pytest.approx([PEAK, PEAK, PEAK / 10, PEAK / 10])
    assert max(rates(lazy(OneCycleLR, max_lr=2.0), 10)) == pytest.approx(2.0)


@pytest.mark.parametrize("component", [cosine_with_warmup, linear_with_warmup, warmup_stable_decay])
def test_a_warm_up_that_is_too_long_is_shortened(component: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert rates(lazy(component, warmup_steps=10), 10) == rates(lazy(component, warmup_steps=1), 10)
    assert "a warm-up of 10 steps is too long for a run of 10 steps; shortened to 1" in caplog.text
    assert rates(lazy(component, warmup_steps=3), 2) == rates(lazy(component), 2)


@pytest.mark.parametrize("component", [cosine_with_warmup, linear_with_warmup, constant_with_warmup])
@pytest.mark.parametrize(
    ("fraction", "total", "warmup"), [(0.1, 30, 3), (0.03, 10, 1), (0.5, 3, 2), (0.01, 1, 0)]
)
def test_warm_up_below_one_is_a_fraction_of_the_run(
    component: Any, fraction: float, total: int, warmup: int
) -> None:
    assert rates(lazy(component, warmup_steps=fraction), total) == rates(
        lazy(component, warmup_steps=warmup), total
    )


def test_warm_up_of_one_and_a_half_steps_is_rejected() -> None:
    with pytest.raises(
        ValueError,
        match=r"expected a whole number of steps, or a fraction of the run \(less than 1\), got 1\.5",
    ):
        rates(lazy(cosine_with_warmup, warmup_steps=1.5), 10)


def test_decay_that_is_too_long_is_limited_to_the_steps_after_the_warm_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    component = lazy(warmup_stable_decay, warmup_steps=1, decay_steps=20)
    assert rates(component, 4) == rates(lazy(warmup_stable_decay, warmup_steps=1, decay_steps=3), 4)
    assert (
        "a decay of 20 steps is too long for a run of 4 steps; shortened to the 3 steps after warm-up"
        in caplog.text
    )


@pytest.mark.parametrize("component", [lazy(cosine_with_warmup), lazy(OneCycleLR, max_lr=2.0)])
def test_a_run_longer_than_estimated_keeps_the_final_learning_rate(
    component: Component[LRScheduler],
) -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = Schedule(build_scheduler(component, optimizer, 5), 5)
    lrs = []
    for _ in range(9):
        lrs.append(schedule.lr)
        optimizer.step()
        schedule.step()
    assert lrs[5:] == [lrs[-1]] * 4
    assert lrs[-1] <= lrs[4]


def test_unsupported_schedulers_and_optimizers_are_rejected_by_name() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(lazy(SGD, lr=0.1), nn.ParameterList([weight]))
    with pytest.raises(ValueError, match="lr_scheduler: ReduceLROnPlateau is not supported"):
        build_scheduler(lazy(ReduceLROnPlateau), optimizer, 5)
    for cls in (LBFGS, SparseAdam):
        with pytest.raises(ValueError, match=f"optimizer: {cls.__name__} "):
            build_optimizer(lazy(cls), nn.ParameterList([weight]))


def test_warmup_stable_decay_rises_stays_and_falls() -> None:
    result = rates(lazy(warmup_stable_decay, warmup_steps=2, decay_steps=4), 10)
    assert result == pytest.approx([PEAK * x for x in (0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25)])
    assert rates(lazy(warmup_stable_decay), 20) == pytest.approx([PEAK] * 19 + [PEAK / 2])
    result = rates(lazy(warmup_stable_decay, decay_steps=2, min_ratio=0.5), 4)
    assert result == pytest.approx([PEAK, PEAK, PEAK, 0.75 * PEAK])
    with pytest.raises(ValueError, match="decay_steps: expected an int above 0, got 0"):
        rates(lazy(warmup_stable_decay, decay_steps=0), 10)


def test_schedule_steps_do_not_cause_repeated_library_warnings() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Schedule(constant_with_warmup(optimizer), 9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(5):
            schedule.step()
            warnings.warn("from a library", UserWarning, stacklevel=1)
    assert len([w for w in caught if str(w.message) == "from a library"]) <= 2, (
        "only the first step may repeat the warning"
    )
