import copy
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

from tests.tolerance import FLOAT64
from tests.training.tiny import build_state, step_loss, tiny_batches, tiny_model
from torchtune.distributed import checkpoint
from torchtune.modules import LinearCrossEntropy
from torchtune.training import Lora, State, cosine_with_warmup
from torchtune.training._start import _seed_everything

STEPS, STOP = 9, 4  # with 11 rows in batches of 2, the run stops in the first epoch and ends in the second
DROPOUT = Lora(targets=["q_proj", "v_proj"], rank=3, dropout=0.3)


class Run:
    """A small run that trains as a recipe does, without metrics."""

    def __init__(self, folder: Path, lora: Lora | None = None, optimizer: str = "fused") -> None:
        _seed_everything(7)
        self.model = tiny_model("fp32", lora)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = (
            SGD(trained, lr=0.1, momentum=0.9) if optimizer == "sgd" else AdamW(trained, lr=0.01, fused=True)
        )
        self.scheduler = cosine_with_warmup(self.optimizer, warmup_steps=2, total_steps=STEPS)
        self.batches = tiny_batches()
        self.state = build_state(folder, self.model, self.optimizer, self.scheduler, self.batches)
        self.records: list[tuple[float, float, float]] = []

    def train(self, last_step: int) -> "Run":
        loss_fn = step_loss(LinearCrossEntropy(), "fp32")
        while self.state.step < last_step:
            loss = loss_fn(self.model, next(self.batches))
            torch.autograd.backward(loss)
            self.records.append((loss.item(), float(self.scheduler.get_last_lr()[0]), random.random()))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()
            self.state.step += 1
        return self

    def complete_state(self) -> dict[str, Any]:
        """Return the complete state of the run, except for `records`."""
        return {
            "step": self.state.step,
            "parameters": dict(self.model.named_parameters()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "batches": self.batches.state_dict(),
            "random": (torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)),
        }


def assert_same(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(actual, dict):
        assert actual.keys() == expected.keys()
        for key, value in actual.items():
            assert_same(value, expected[key])
    elif isinstance(actual, list | tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
    elif isinstance(actual, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)
    elif isinstance(actual, np.ndarray):
        assert (actual == expected).all()
    elif not callable(actual):
        assert actual == expected


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("lora", [None, DROPOUT], ids=["full", "lora with dropout"])
@pytest.mark.parametrize("optimizer", ["fused", "sgd"])
def test_resumed_run_matches_an_uninterrupted_run(tmp_path: Path, lora: Lora | None, optimizer: str) -> None:
    uninterrupted = Run(tmp_path / "a", lora, optimizer).train(STEPS)
    uninterrupted_state = copy.deepcopy(uninterrupted.complete_state())
    first = Run(tmp_path / "b", lora, optimizer).train(STOP)
    first.state.save()
    first.train(STOP + 2)  # steps after the checkpoint are lost and must have no effect
    second = Run(tmp_path / "b", lora, optimizer)
    _ = random.random(), np.random.random(), torch.rand(1)
    assert second.state.resume()
    assert second.state.step == STOP
    second.train(STEPS)
    assert second.records == uninterrupted.records[STOP:]
    assert_same(second.complete_state(), uninterrupted_state)


def test_lora_checkpoint_contains_only_the_adapters(tmp_path: Path) -> None:
    sizes = []
    for name, lora in (("full", None), ("lora", DROPOUT)):
        run = Run(tmp_path / name, lora).train(1)
        run.state.save()
        sizes.append((tmp_path / name / "checkpoints/step_1/__0_0.distcp").stat().st_size)
        assert set(run.state._parameters) == {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert sizes[1] < sizes[0]


def test_run_without_a_checkpoint_starts_at_step_0(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_3.part").mkdir(parents=True)  # left by a killed run
    run = Run(tmp_path)
    assert not run.state.resume()
    assert run.state.step == 0


def test_the_oldest_checkpoints_are_removed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2, 9, 10):
        run.train(min(step, STEPS)).state.step = step
        run.state.save(keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_10", "step_9"]


def test_saving_at_the_resumed_step_keeps_the_checkpoint(tmp_path: Path) -> None:
    Run(tmp_path).train(2).state.save()
    run = Run(tmp_path)
    run.state.resume()
    run.state.save()
    assert Run(tmp_path).state.resume()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "is [0-9]+ bytes; expected [0-9]+"),
    (flip_a_bit, "has changed since it was written"),
    (Path.unlink, "is missing"),
]


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.pt", "rank_0.pt"])
@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=["cut", "flipped", "missing"])
def test_a_damaged_checkpoint_is_rejected_and_the_previous_one_is_suggested(
    tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    run = Run(tmp_path)
    run.train(1).state.save(keep=2)
    run.train(2).state.save(keep=2)
    newest = tmp_path / "checkpoints" / "step_2"
    damage(newest / name)
    resumed = Run(tmp_path)
    before = copy.deepcopy(resumed.complete_state())
    with pytest.raises(
        ValueError, match=f"step_2 is damaged: {name} {message}; delete that folder to continue from step 1"
    ):
        resumed.state.resume()
    assert_same(resumed.complete_state(), before)
    shutil.rmtree(newest)
    assert resumed.state.resume()
    assert resumed.state.step == 1


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("text", [None, "", "{}", "[]", "null", '{"format": 99}', '{"format": 2}'])
def test_a_checkpoint_without_a_valid_manifest_is_rejected(tmp_path: Path, text: str | None) -> None:
    Run(tmp_path).train(1).state.save()
    manifest = tmp_path / "checkpoints" / "step_1" / "manifest.json"
    if text is None:
        manifest.unlink()
    else:
        manifest.write_text(text)
    with pytest.raises(
        ValueError, match=r"step_1 is damaged: manifest.json .*; delete that folder to start again"
    ):
        Run(tmp_path).state.resume()


def test_checkpoint_of_a_different_model_is_rejected(tmp_path: Path) -> None:
    Run(tmp_path, DROPOUT).train(1).state.save()
    other = Run(tmp_path, Lora(targets=["q_proj", "v_proj"], rank=5))
    before = copy.deepcopy(other.complete_state())
    with pytest.raises(
        ValueError,
        match=r"for a different model or adapter: 8 trained .*lora_a, had shape \[3, 16\] and now has",
    ):
        other.state.resume()
    assert_same(other.complete_state(), before)


def test_an_optimizer_without_state_is_saved_and_resumed(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = cosine_with_warmup(optimizer, total_steps=3)
    state = build_state(tmp_path, model, optimizer, scheduler, tiny_batches())
    saved = copy.deepcopy(model.state_dict())
    state.save()
    nn.init.zeros_(model.weight)
    assert state.resume()
    assert_same(dict(model.state_dict()), dict(saved))


@pytest.mark.parametrize("limit", [100, 1_000, 4_000])
def test_full_disk_raises_one_error_and_earlier_checkpoints_are_kept(tmp_path: Path, limit: int) -> None:
    run = Run(tmp_path).train(2)
    run.state.save()
    run.train(STOP)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="the checkpoint cannot be written") as caught:
            run.state.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value.filename).endswith(f"step_{STOP}.part")
    assert [p.name for p in (tmp_path / "checkpoints").glob("step_*") if p.suffix != ".part"] == ["step_2"]
    run.state.save()
    assert Run(tmp_path).state.resume()


class KilledError(BaseException):
    """Simulates SIGKILL: no `except Exception` catches it."""


POINTS = [
    ("before any file", "_save_tensors", 1),
    ("between tensors and other files", "_save_values", 1),
    ("between two files", "_save_values", 2),
    ("before the manifest", "write_text", 1),
    ("before the folder is renamed", "rename", 2),  # the first call is in torch.distributed.checkpoint
    ("while the previous checkpoint is removed", "rmtree", 2),
]


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(("function", "call"), [point[1:] for point in POINTS], ids=[p[0] for p in POINTS])
def test_kill_during_checkpoint_writing_leaves_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    run = Run(tmp_path).train(2)
    run.state.save()
    run.train(4)
    owner: Any = {"rename": Path, "write_text": Path, "rmtree": shutil}.get(function, checkpoint)
    original, calls = getattr(owner, function), 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, killed)
        with pytest.raises(KilledError):
            run.state.save()
    resumed = Run(tmp_path)
    assert resumed.state.resume()
    expected_step = 4 if function == "rmtree" else 2
    assert resumed.state.step == expected_step
    assert_same(resumed.train(4).complete_state(), Run(tmp_path / "uninterrupted").train(4).complete_state())
    resumed.state.save()  # incomplete files must have no effect
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_?")] == ["step_4"]


def test_checkpoint_of_a_different_config_is_rejected_with_the_changed_field(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step, lr in ((1, 0.1), (2, 0.2)):
        run.state._config = {"optimizer": {"_component_": "torch.optim.AdamW", "lr": lr}, "batch_size": 2}
        run.state.step = step
        run.state.save(keep=2)
    run.state._config = {"optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.1}, "batch_size": 2}
    with pytest.raises(
        ValueError,
        match=r"step_2 was written with a different config: optimizer.lr was 0.2 and is now 0.1; "
        "delete that folder to continue from step 1, or choose a different output_dir",
    ):
        run.state.resume()
    shutil.rmtree(tmp_path / "checkpoints" / "step_2")
    assert run.state.resume()
    assert run.state.step == 1


def test_files_left_by_killed_runs_are_removed_and_do_not_interfere(tmp_path: Path) -> None:
    run = Run(tmp_path).train(1)
    run.state.save()
    folder = tmp_path / "checkpoints"
    for name in ("step_5.part", "step_1.removed", "step_3.removed"):
        shutil.copytree(folder / "step_1", folder / name)
    # The temporary name for removing step_3 is in use.
    checkpoint.remove(shutil.copytree(folder / "step_1", folder / "step_3"))
    resumed = Run(tmp_path)
    assert resumed.state.resume()
    assert [path.name for path in folder.iterdir()] == ["step_1"]


def test_resumed_schedule_follows_the_curve_for_its_new_length(tmp_path: Path) -> None:
    def run(folder: Path, total: int) -> Run:
        new_run = Run(folder)
        new_run.scheduler = cosine_with_warmup(new_run.optimizer, warmup_steps=2, total_steps=total)
        parts = new_run.model, new_run.optimizer, new_run.scheduler, new_run.batches
        new_run.state = build_state(folder, *parts, total_steps=total)
        return new_run

    run(tmp_path / "short", 9).train(6).state.save()
    longer = run(tmp_path / "short", 30)
    assert longer.state.resume()
    full_run = run(tmp_path / "full", 30)
    rates = [lr for _, lr, _ in full_run.train(12).records[6:]]
    assert [lr for _, lr, _ in longer.train(12).records] == pytest.approx(rates, rel=FLOAT64)


def test_resuming_a_schedule_that_cannot_change_its_length_is_rejected(tmp_path: Path) -> None:
    for total in (9, 30):
        run = Run(tmp_path)
        scheduler = OneCycleLR(run.optimizer, 0.1, total_steps=total)
        parts = run.model, run.optimizer, scheduler, run.batches
        state = build_state(tmp_path, *parts, total_steps=total)
        if total == 9:
            state.step = 1
            state.save()
            continue
        with pytest.raises(ValueError, match="OneCycleLR was built for 9 steps and cannot change its length"):
            state.resume()


def test_resuming_adapters_on_different_base_weights_is_rejected(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "a.safetensors").write_bytes(bytes(100_000))
    (base / "config.json").write_text("{}")

    def state() -> State:
        run = Run(tmp_path, DROPOUT)
        parts = run.model, run.optimizer, run.scheduler, run.batches
        return build_state(tmp_path, *parts, base=str(base))

    first = state()
    first.step = 1
    first.save()
    (base / "config.json").write_text("{ }")
    assert state().resume()
    for change in (bytes(99_999) + b"x", bytes(100_001)):
        (base / "a.safetensors").write_bytes(change)
        with pytest.raises(
            ValueError,
            match=r"step_1 was written with base weights that differ from .*: a.safetensors differs; restore",
        ):
            state().resume()
