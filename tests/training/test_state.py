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
from tests.training.tiny import state_of, step_loss, tiny_batches, tiny_model
from torchtune.distributed import checkpoint
from torchtune.modules import LinearCrossEntropy
from torchtune.training import Lora, State, cosine_with_warmup
from torchtune.training._start import _seed_everything

STEPS, STOP = 9, 4  # 11 rows in batches of 2: the stop is within the first epoch, the end within the second
DROPOUT = Lora(targets=["q_proj", "v_proj"], rank=3, dropout=0.3)


class Run:
    """A small run, written out: what a recipe does, without its metrics."""

    def __init__(self, folder: Path, lora: Lora | None = None, optimizer: str = "fused") -> None:
        _seed_everything(7)
        self.model = tiny_model("fp32", lora)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = (
            SGD(trained, lr=0.1, momentum=0.9) if optimizer == "sgd" else AdamW(trained, lr=0.01, fused=True)
        )
        self.scheduler = cosine_with_warmup(self.optimizer, warmup_steps=2, total_steps=STEPS)
        self.batches = tiny_batches()
        self.state = state_of(folder, self.model, self.optimizer, self.scheduler, self.batches)
        self.seen: list[tuple[float, float, float]] = []

    def train(self, until: int) -> "Run":
        loss_fn = step_loss(LinearCrossEntropy(), "fp32")
        while self.state.step < until:
            loss = loss_fn(self.model, next(self.batches))
            torch.autograd.backward(loss)
            self.seen.append((loss.item(), float(self.scheduler.get_last_lr()[0]), random.random()))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()
            self.state.step += 1
        return self

    def everything(self) -> dict[str, Any]:
        """All that two equal runs have equal, apart from `seen`."""
        return {
            "step": self.state.step,
            "parameters": dict(self.model.named_parameters()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "batches": self.batches.state_dict(),
            "random": (torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)),
        }


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert_same(value, expected[key])
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    elif isinstance(found, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(found, np.ndarray):
        assert (found == expected).all()
    elif not callable(found):
        assert found == expected


@pytest.mark.parametrize("lora", [None, DROPOUT], ids=["full", "lora with dropout"])
@pytest.mark.parametrize("optimizer", ["fused", "sgd"])
def test_resumed_run_equals_unbroken_run(tmp_path: Path, lora: Lora | None, optimizer: str) -> None:
    unbroken = Run(tmp_path / "a", lora, optimizer).train(STEPS)
    unbroken_end = copy.deepcopy(unbroken.everything())
    first = Run(tmp_path / "b", lora, optimizer).train(STOP)
    first.state.save()
    first.train(STOP + 2)  # steps after the checkpoint are lost, and must leave no trace
    second = Run(tmp_path / "b", lora, optimizer)
    _ = random.random(), np.random.random(), torch.rand(1)
    assert second.state.resume()
    assert second.state.step == STOP
    second.train(STEPS)
    assert second.seen == unbroken.seen[STOP:]
    assert_same(second.everything(), unbroken_end)


def test_adapters_alone_are_held_for_a_model_with_lora(tmp_path: Path) -> None:
    sizes = []
    for name, lora in (("full", None), ("lora", DROPOUT)):
        run = Run(tmp_path / name, lora).train(1)
        run.state.save()
        sizes.append((tmp_path / name / "checkpoints/step_1/__0_0.distcp").stat().st_size)
        assert set(run.state._parameters) == {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert sizes[1] < sizes[0]


def test_without_a_checkpoint_the_run_starts_at_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_3.part").mkdir(parents=True)  # what a kill leaves
    run = Run(tmp_path)
    assert not run.state.resume()
    assert run.state.step == 0


def test_oldest_checkpoints_are_removed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2, 9, 10):
        run.train(min(step, STEPS)).state.step = step
        run.state.save(keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_10", "step_9"]


def test_saving_again_where_a_run_resumed_keeps_the_checkpoint(tmp_path: Path) -> None:
    Run(tmp_path).train(2).state.save()
    run = Run(tmp_path)
    run.state.resume()
    run.state.save()
    assert Run(tmp_path).state.resume()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut_short, "has [0-9]+ bytes instead of [0-9]+"),
    (flip_a_bit, "has changed since it was written"),
    (Path.unlink, "is missing"),
]


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.pt", "rank_0.pt"])
@pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=["cut", "flipped", "missing"])
def test_damaged_checkpoint_is_refused_by_name_and_the_one_before_offered(
    tmp_path: Path, name: str, damage: Callable[[Path], None], said: str
) -> None:
    run = Run(tmp_path)
    run.train(1).state.save(keep=2)
    run.train(2).state.save(keep=2)
    newest = tmp_path / "checkpoints" / "step_2"
    damage(newest / name)
    again = Run(tmp_path)
    before = copy.deepcopy(again.everything())
    with pytest.raises(
        ValueError, match=f"step_2 is damaged: {name} {said}; delete that folder to continue from step 1"
    ):
        again.state.resume()
    assert_same(again.everything(), before)
    shutil.rmtree(newest)
    assert again.state.resume()
    assert again.state.step == 1


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "null", '{"format": 99}', '{"format": 2}'])
def test_checkpoint_without_a_sound_manifest_is_refused(tmp_path: Path, text: str | None) -> None:
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


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, DROPOUT).train(1).state.save()
    other = Run(tmp_path, Lora(targets=["q_proj", "v_proj"], rank=5))
    before = copy.deepcopy(other.everything())
    with pytest.raises(
        ValueError, match=r"for another model or adapter: 8 trained .*lora_a, had shape \[3, 16\] and now has"
    ):
        other.state.resume()
    assert_same(other.everything(), before)


def test_optimizer_without_state_is_saved_and_resumed(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = cosine_with_warmup(optimizer, total_steps=3)
    state = state_of(tmp_path, model, optimizer, scheduler, tiny_batches())
    saved = copy.deepcopy(model.state_dict())
    state.save()
    nn.init.zeros_(model.weight)
    assert state.resume()
    assert_same(dict(model.state_dict()), dict(saved))


@pytest.mark.parametrize("room", [100, 1_000, 4_000])
def test_too_little_room_is_one_error_and_earlier_checkpoints_stay(tmp_path: Path, room: int) -> None:
    run = Run(tmp_path).train(2)
    run.state.save()
    run.train(STOP)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
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
    """Leaves files as a kill would at that point: nothing is tidied up behind it."""


POINTS = [
    ("before anything", "_save_tensors", 1),
    ("between tensors and the rest", "_fingerprint", 1),
    ("between two checksums", "_fingerprint", 2),
    ("before the manifest", "write_text", 1),
    ("before it gets its name", "rename", 2),  # the first is within torch.distributed.checkpoint
    ("while the one before is removed", "rmtree", 2),
]


@pytest.mark.parametrize(("function", "call"), [point[1:] for point in POINTS], ids=[p[0] for p in POINTS])
def test_kill_while_a_checkpoint_is_written_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    run = Run(tmp_path).train(2)
    run.state.save()
    run.train(4)
    owner: Any = {"rename": Path, "write_text": Path, "rmtree": shutil}.get(function, checkpoint)
    original, calls = getattr(owner, function), 0

    def killed(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError
        return original(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, killed)
        with pytest.raises(KilledError):
            run.state.save()
    again = Run(tmp_path)
    assert again.state.resume()
    written = 4 if function == "rmtree" else 2
    assert again.state.step == written
    assert_same(again.train(4).everything(), Run(tmp_path / "unbroken").train(4).everything())
    again.state.save()  # what the kill left is in nobody's way
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_?")] == ["step_4"]


def test_checkpoint_of_another_config_is_refused_by_name(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step, lr in ((1, 0.1), (2, 0.2)):
        run.state._config = {"optimizer": {"_component_": "torch.optim.AdamW", "lr": lr}, "batch_size": 2}
        run.state.step = step
        run.state.save(keep=2)
    run.state._config = {"optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.1}, "batch_size": 2}
    with pytest.raises(
        ValueError,
        match=r"step_2 was written with another config: optimizer.lr was 0.2 and is now 0.1; "
        "delete that folder to continue from step 1, or set another output_dir",
    ):
        run.state.resume()
    shutil.rmtree(tmp_path / "checkpoints" / "step_2")
    assert run.state.resume()
    assert run.state.step == 1


def test_what_kills_left_is_tidied_and_in_nobodys_way(tmp_path: Path) -> None:
    run = Run(tmp_path).train(1)
    run.state.save()
    folder = tmp_path / "checkpoints"
    for name in ("step_5.part", "step_1.removed", "step_3.removed"):
        shutil.copytree(folder / "step_1", folder / name)
    checkpoint.remove(shutil.copytree(folder / "step_1", folder / "step_3"))  # its other name is taken
    again = Run(tmp_path)
    assert again.state.resume()
    assert [path.name for path in folder.iterdir()] == ["step_1"]


def test_a_schedule_goes_on_along_the_curve_of_its_new_length(tmp_path: Path) -> None:
    def run(folder: Path, total: int) -> Run:
        made = Run(folder)
        made.scheduler = cosine_with_warmup(made.optimizer, warmup_steps=2, total_steps=total)
        parts = made.model, made.optimizer, made.scheduler, made.batches
        made.state = state_of(folder, *parts, total_steps=total)
        return made

    run(tmp_path / "short", 9).train(6).state.save()
    longer = run(tmp_path / "short", 30)
    assert longer.state.resume()
    whole = run(tmp_path / "whole", 30)
    rates = [lr for _, lr, _ in whole.train(12).seen[6:]]
    assert [lr for _, lr, _ in longer.train(12).seen] == pytest.approx(rates, rel=FLOAT64)


def test_a_schedule_that_cannot_change_its_length_says_so(tmp_path: Path) -> None:
    for total in (9, 30):
        run = Run(tmp_path)
        scheduler = OneCycleLR(run.optimizer, 0.1, total_steps=total)
        parts = run.model, run.optimizer, scheduler, run.batches
        state = state_of(tmp_path, *parts, total_steps=total)
        if total == 9:
            state.step = 1
            state.save()
            continue
        with pytest.raises(ValueError, match="OneCycleLR was built for 9 steps and cannot change its length"):
            state.resume()


def test_other_weights_below_the_adapters_are_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "a.safetensors").write_bytes(bytes(100_000))
    (base / "config.json").write_text("{}")

    def state() -> State:
        run = Run(tmp_path, DROPOUT)
        parts = run.model, run.optimizer, run.scheduler, run.batches
        return state_of(tmp_path, *parts, base=str(base))

    first = state()
    first.step = 1
    first.save()
    (base / "config.json").write_text("{ }")
    assert state().resume()
    for change in (bytes(99_999) + b"x", bytes(100_001)):
        (base / "a.safetensors").write_bytes(change)
        with pytest.raises(
            ValueError, match=r"step_1 was trained with other base weights .*: a.safetensors differs; restore"
        ):
            state().resume()
