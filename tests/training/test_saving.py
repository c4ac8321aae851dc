"""Checkpoints are written and retained as configured, and a signal stops a run."""

import os
import signal
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch.optim import AdamW

from configs_py.smollm2 import smollm2_135m_full
from tests.training.tiny import SINGLE_RANK, tiny_batches, tiny_model
from torchtune.distributed import Stopped, StopRequests, checkpoint
from torchtune.modules import LinearCrossEntropy
from torchtune.training import (
    Checkpoints,
    LossScale,
    NextToken,
    Run,
    Schedule,
    StepSums,
    clip_gradients,
    constant_with_warmup,
)


def checkpoint_rules(**changes: Any) -> Checkpoints:
    """Return a `checkpoints` section with only the given rules, which retains all checkpoints."""
    defaults: dict[str, Any] = {"every_n_steps": None, "at_epoch_ends": False, "keep": 100}
    return Checkpoints(**(defaults | changes))


class TinyRun:
    """A run with eleven rows in batches of two, which are six steps per epoch."""

    def __init__(self, folder: Path, section: Checkpoints, total: int = 12) -> None:
        self.folder = folder / "checkpoints"
        torch.manual_seed(0)
        self.model = tiny_model("fp32")
        self.optimizer = AdamW(self.model.parameters(), lr=0.01, fused=True)
        self.batches = tiny_batches()
        cfg = evolve(
            smollm2_135m_full(),
            output_dir=str(folder),
            checkpoints=section,
            max_steps=total,
            metric_logger=None,
            model_directory=None,
            tokenizer_directory=None,
        )
        folder.mkdir(exist_ok=True)
        schedule = Schedule(constant_with_warmup(self.optimizer), total)
        self.run = Run(cfg, self.model, self.optimizer, schedule, self.batches, SINGLE_RANK)
        self.state = self.run.state

    def steps(self) -> Generator[int, None, None]:
        scorer = NextToken(LinearCrossEntropy())
        with self.run as run:
            while not run.is_complete:
                sums = StepSums([next(self.batches)], SINGLE_RANK)
                torch.autograd.backward(sums.add(scorer(self.model, sums.micro_batches[0])))
                run.update(sums, clip_gradients(self.model, None))
                self.optimizer.zero_grad()
                yield run.step
                run.save_if_due()

    def saved(self) -> list[int]:
        return checkpoint.steps(self.folder)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize(
    ("settings", "saved"),
    [
        ({"every_n_steps": 5}, [5, 10, 12]),  # a checkpoint is always written after the last step
        ({"at_epoch_ends": True}, [6, 12]),  # 11 rows in batches of 2
        ({"every_n_steps": 4, "at_epoch_ends": True}, [4, 6, 8, 12]),
        ({}, []),
        ({"every_n_steps": 1, "keep": 2}, [11, 12]),
        ({"every_n_steps": 1, "keep": 1, "keep_every_n_steps": 5}, [5, 10, 12]),
        ({"every_n_minutes": 1e-9}, list(range(1, 13))),
        ({"every_n_minutes": 60}, [12]),
    ],
)
def test_checkpoints_are_written_when_due_and_retained_as_configured(
    tmp_path: Path, settings: dict[str, Any], saved: list[int], in_background: bool
) -> None:
    run = TinyRun(tmp_path, checkpoint_rules(**settings, asynchronous=in_background))
    assert list(run.steps()) == list(range(1, 13))
    assert run.saved() == saved
    assert sorted(path.name for path in run.folder.glob("*")) == sorted(f"step_{step}" for step in saved)


@pytest.mark.slow
def test_background_checkpoint_matches_a_foreground_checkpoint(tmp_path: Path) -> None:
    for name, in_background in (("foreground", False), ("background", True)):
        run = TinyRun(tmp_path / name, checkpoint_rules(every_n_steps=3, asynchronous=in_background), 9)
        list(run.steps())
        assert run.saved() == [3, 6, 9]
    for step in (9, 6, 3):
        foreground, background = (
            TinyRun(tmp_path / "foreground", checkpoint_rules()),
            TinyRun(tmp_path / "background", checkpoint_rules()),
        )
        for resumed in (foreground, background):
            assert resumed.run.step == step
            checkpoint.remove(resumed.folder / f"step_{step}")
        assert all(map(torch.equal, foreground.model.parameters(), background.model.parameters()))
        assert str(foreground.optimizer.state_dict()) == str(background.optimizer.state_dict())
        assert foreground.batches.state_dict() == background.batches.state_dict()


def test_background_error_is_raised_and_earlier_checkpoints_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TinyRun(tmp_path, checkpoint_rules(every_n_steps=2, asynchronous=True))
    steps = run.steps()
    for _ in range(4):
        next(steps)
    run.state.wait()
    monkeypatch.setattr(checkpoint, "_save_tensors", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="the checkpoint cannot be written: full"):
        list(steps)
    assert run.saved() == [2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("in_background", [False, True])
def test_a_run_stopped_by_a_signal_saves_a_checkpoint_and_reports_it(
    tmp_path: Path, number: signal.Signals, in_background: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    run = TinyRun(tmp_path, checkpoint_rules(asynchronous=in_background))
    steps = run.steps()
    for _ in range(3):
        next(steps)
    os.kill(os.getpid(), number)
    notice = capfd.readouterr().err
    assert "finishing this step and saving a checkpoint" in notice, "the signal must not interrupt the step"
    assert ("Ctrl-C again to exit at once" in notice) is (number == signal.SIGINT)
    with pytest.raises(Stopped) as caught:
        next(steps)
    assert run.saved() == [3]
    folder = run.folder / "step_3"
    assert str(caught.value) == (
        f"stopped by {number.name} after step 3 of 12; checkpoint written to {folder}; run the same command to resume"
    )
    assert caught.value.status == 128 + number
    assert signal.getsignal(number) == before


def test_second_interrupt_ends_an_interactive_run_immediately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    run = TinyRun(tmp_path, checkpoint_rules(every_n_steps=2))
    steps = run.steps()
    for _ in range(3):
        next(steps)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped, match="interrupted twice; run the same command to resume from the last"):
        os.kill(os.getpid(), signal.SIGINT)
    steps.close()
    assert run.saved() == [2]


class RaisesSignalWhenCollected:
    """Raises a signal in a finalizer, whose exceptions Python ignores."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


# With multiple ranks, torch's launcher sends SIGTERM when it receives the second Ctrl-C.
@pytest.mark.parametrize("numbers", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_second_interrupt_ends_the_process_wherever_it_lands(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], numbers: tuple[str, str]
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    with StopRequests(SINGLE_RANK):
        first, second = (signal.Signals[name] for name in numbers)
        signal.raise_signal(first)
        assert statuses == []
        interrupt = RaisesSignalWhenCollected(second)
        del interrupt
    assert statuses == [130]
    assert capfd.readouterr().err.endswith(
        "\ninterrupted twice; run the same command to resume from the last checkpoint\n"
    )


def test_a_signal_at_the_last_step_ends_the_run_normally(tmp_path: Path) -> None:
    run = TinyRun(tmp_path, checkpoint_rules(), 3)
    steps = run.steps()
    for _ in range(3):
        next(steps)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(steps) == []
    assert run.saved() == [3]


def test_a_run_in_another_thread_has_no_signal_handlers(tmp_path: Path) -> None:
    steps: list[int] = []
    thread = threading.Thread(target=lambda: steps.extend(TinyRun(tmp_path, checkpoint_rules(), 2).steps()))
    thread.start()
    thread.join()
    assert steps == [1, 2]


def test_the_loss_scale_is_halved_doubled_and_restored() -> None:
    overflow, no_overflow = torch.tensor([True, False]).unbind()
    scale = LossScale("fp16")
    first = float(scale.factor)
    assert scale.explains_overflow(first)
    scale.update(overflow)
    assert scale.factor == first / 2
    for _ in range(2000):
        scale.update(no_overflow)
    assert scale.factor == first
    resumed_scale = LossScale("fp16")
    resumed_scale.load_state_dict(scale.state_dict())
    assert resumed_scale.state_dict() == scale.state_dict()
    for _ in range(100):
        scale.update(overflow)
    assert scale.factor == 2.0**-14
    assert not scale.explains_overflow(float(scale.factor))
    plain = LossScale("bf16")
    for _ in range(4000):
        plain.update(no_overflow)
    plain.update(overflow)
    assert plain.factor == 1.0
    assert not plain.explains_overflow(1.0)


def test_resuming_past_the_configured_length_is_rejected(tmp_path: Path) -> None:
    list(TinyRun(tmp_path, checkpoint_rules(every_n_steps=4), 8).steps())
    with pytest.raises(
        ValueError, match="the run is already at step 8 of epoch 2, past the 5 steps of its config"
    ):
        TinyRun(tmp_path, checkpoint_rules(), 5)
