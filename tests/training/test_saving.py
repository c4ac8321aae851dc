"""When checkpoints are written, which stay, and how a run ends that is asked to."""

import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch.optim import AdamW

from configs_py.smollm2 import smollm2_135m_full
from tests.training.tiny import ALONE, tiny_batches, tiny_model
from torchtune.data import Batches, Example
from torchtune.modules import LinearCrossEntropy
from torchtune.training import (
    FinetuneConfig,
    LossScale,
    Saving,
    State,
    Stopped,
    _checkpoint,
    constant_with_warmup,
    step_loss,
)


def rules(**changes: Any) -> FinetuneConfig:
    """Return a config whose checkpoints are due by the rules that are named alone, and all of which stay."""
    none = {
        "save_every_n_steps": None,
        "save_at_epoch_ends": False,
        "keep_checkpoints": 100,
    }
    return evolve(smollm2_135m_full(), **(none | changes))


class Run:
    """Six steps of eleven rows in batches of two, or as many as a test takes."""

    def __init__(self, folder: Path, cfg: FinetuneConfig) -> None:
        self.folder = folder / "checkpoints"
        torch.manual_seed(0)
        self.model = tiny_model("fp32")
        self.optimizer = AdamW(self.model.parameters(), lr=0.01, fused=True)
        scheduler = constant_with_warmup(self.optimizer)
        self.batches: Batches[Example] = tiny_batches()
        self.state = State(str(folder), self.model, self.optimizer, scheduler, self.batches, world=ALONE)
        self.saving = Saving(cfg, self.state, self.batches, ALONE)

    def steps(self, total: int) -> Generator[int, None, None]:
        loss_fn = step_loss(LinearCrossEntropy(), "fp32")
        with self.saving as saving:
            for step in saving.steps(total):
                torch.autograd.backward(loss_fn(self.model, next(self.batches)))
                self.optimizer.step()
                self.optimizer.zero_grad()
                yield step

    def saved(self) -> list[int]:
        return _checkpoint.steps(self.folder)


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize(
    ("settings", "saved"),
    [
        ({"save_every_n_steps": 5}, [5, 10]),
        ({"save_at_epoch_ends": True}, [6, 11]),  # rows 12 and 22
        ({"save_every_n_steps": 4, "save_at_epoch_ends": True}, [4, 6, 8, 11, 12]),
        ({}, []),
        ({"save_every_n_steps": 1, "keep_checkpoints": 2}, [11, 12]),
        ({"save_every_n_steps": 1, "keep_checkpoints": 1, "keep_every_n_steps": 5}, [5, 10, 12]),
        ({"save_every_n_minutes": 1e-9}, list(range(1, 13))),
        ({"save_every_n_minutes": 60}, []),
    ],
)
def test_checkpoints_are_written_when_due_and_stay_by_the_rule(
    tmp_path: Path, settings: dict[str, Any], saved: list[int], in_background: bool
) -> None:
    run = Run(tmp_path, rules(**settings, async_checkpoints=in_background))
    assert list(run.steps(12)) == list(range(1, 13))
    assert run.saved() == saved
    assert sorted(path.name for path in run.folder.glob("*")) == sorted(f"step_{step}" for step in saved)


def test_a_checkpoint_written_in_the_background_is_that_of_its_step(tmp_path: Path) -> None:
    for name, in_background in (("now", False), ("later", True)):
        run = Run(tmp_path / name, rules(save_every_n_steps=3, async_checkpoints=in_background))
        list(run.steps(9))
        assert run.saved() == [3, 6, 9]
    for step in (9, 6, 3):
        now, later = Run(tmp_path / "now", rules()), Run(tmp_path / "later", rules())
        for found in (now, later):
            assert found.state.resume()
            assert found.state.step == step
            _checkpoint.remove(found.folder / f"step_{step}")
        assert all(map(torch.equal, now.model.parameters(), later.model.parameters()))
        assert str(now.optimizer.state_dict()) == str(later.optimizer.state_dict())
        assert now.batches.state_dict() == later.batches.state_dict()


def test_what_goes_wrong_in_the_background_is_raised_and_earlier_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, rules(save_every_n_steps=2, async_checkpoints=True))
    steps = run.steps(12)
    for _ in range(4):
        next(steps)
    run.state.wait()
    monkeypatch.setattr(_checkpoint, "_save_tensors", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="the checkpoint cannot be written: full"):
        list(steps)
    assert run.saved() == [2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("in_background", [False, True])
def test_a_run_that_is_asked_to_end_saves_its_step_and_says_so(
    tmp_path: Path, number: signal.Signals, in_background: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    run = Run(tmp_path, rules(async_checkpoints=in_background))
    steps = run.steps(12)
    for _ in range(3):
        next(steps)
    os.kill(os.getpid(), number)
    with pytest.raises(Stopped) as caught:
        next(steps)
    assert run.saved() == [3]
    where = run.folder / "step_3"
    assert str(caught.value) == (
        f"stopped by {number.name} after step 3 of 12; {where} is written, and the same command continues"
    )
    assert caught.value.status == 128 + number
    assert signal.getsignal(number) == before
    assert ("Ctrl-C again ends at once" in capfd.readouterr().err) is (number == signal.SIGINT)


def test_a_second_interrupt_ends_the_run_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, rules(save_every_n_steps=2))
    steps = run.steps(12)
    for _ in range(3):
        next(steps)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped, match="interrupted twice; the same command continues from the last"):
        os.kill(os.getpid(), signal.SIGINT)
    steps.close()
    assert run.saved() == [2]


def test_a_stop_at_the_last_step_is_the_end_of_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, rules())
    steps = run.steps(3)
    for _ in range(3):
        next(steps)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(steps) == []
    assert run.saved() == [3]


def test_a_thread_that_is_not_the_main_one_runs_without_handlers(tmp_path: Path) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(Run(tmp_path, rules()).steps(2)))
    thread.start()
    thread.join()
    assert found == [1, 2]


def test_the_loss_scale_halves_doubles_and_is_taken_up() -> None:
    scale = LossScale("fp16")
    first = scale.factor
    assert scale.shrink()
    assert scale.factor == first / 2
    for _ in range(2000):
        scale.grow()
    assert scale.factor == first
    again = LossScale("fp16")
    again.load_state_dict(scale.state_dict())
    assert again.state_dict() == scale.state_dict()
    while scale.shrink():
        assert scale.factor >= 2.0**-14
    plain = LossScale("bf16")
    assert not plain.shrink()
    for _ in range(4000):
        plain.grow()
    assert plain.factor == 1.0


def test_a_run_that_is_further_than_it_shall_go_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, rules(save_every_n_steps=4))
    list(run.steps(8))
    again = Run(tmp_path, rules())
    assert again.state.resume()
    with pytest.raises(ValueError, match="the run is at step 8 already, behind the 5 that it shall have"):
        list(again.steps(5))
