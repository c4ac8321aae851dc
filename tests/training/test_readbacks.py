"""Asynchronous steps: values are read one step later, and updates are skipped on the device."""

import copy
import json
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from configs_py.smollm2 import smollm2_135m_full
from tests.modules.kernels import uncompiled_flex
from tests.training.host_waits import CopyCounter, SyncCounter
from tests.training.test_exactness import SMALL, prepend_prefix, rows
from tests.training.tiny import SINGLE_RANK, NaNLoss, examples, tiny_model
from torchtune.data import Batch, Batches, Example
from torchtune.distributed import checkpoint
from torchtune.internals import skip_step_if, supports_skipping
from torchtune.modules import Architecture, Decoder, Hardware, LinearCrossEntropy, assume_hardware
from torchtune.training import (
    Checkpoints,
    FinetuneConfig,
    NextToken,
    Readback,
    Run,
    Schedule,
    Score,
    StepSums,
    Term,
    clip_gradients,
    linear_with_warmup,
)


def config(folder: Path, **changes: Any) -> FinetuneConfig:
    folder.mkdir(exist_ok=True)
    fields: dict[str, Any] = {
        "output_dir": str(folder),
        "metric_logger": None,
        "model_directory": None,
        "tokenizer_directory": None,
        "checkpoints": Checkpoints(every_n_steps=None, at_epoch_ends=False),
    }
    return evolve(smollm2_135m_full(), **(fields | changes))


class PackedRun:
    """A run whose optimizer steps have two packed micro-batches each, as in a recipe."""

    def __init__(
        self,
        cfg: FinetuneConfig,
        scorer: NextToken,
        *,
        synchronous: bool,
        kind: str = "adamw",
        total: int = 6,
    ) -> None:
        torch.manual_seed(0)
        self.model = tiny_model(cfg.dtype)
        self.optimizer = OPTIMIZERS[kind](self.model)
        self.batches: Batches[Example] = Batches(
            examples(), 2, shuffle=True, seed=3, pad_id=0, packed_length=20, share_prefixes=True
        )
        schedule = Schedule(linear_with_warmup(self.optimizer, total_steps=total), total)
        self.run = Run(
            evolve(cfg, max_steps=total),
            self.model,
            self.optimizer,
            schedule,
            self.batches,
            SINGLE_RANK,
            synchronous=synchronous,
        )
        self.scorer, self.total = scorer, total
        self.loop_ended = threading.Event()
        self.n_tokens: list[int] = []

    def take_steps(self, count: int, mode: AbstractContextManager[object] | None = None) -> None:
        for _ in range(count):
            micro_batches = self.batches.next_step(2)  # on the host, so these operations are not counted
            with mode or nullcontext():
                self.step(micro_batches)

    def step(self, micro_batches: list[Batch]) -> None:
        sums = StepSums(micro_batches, SINGLE_RANK)
        self.n_tokens.append(sum(batch.n_tokens for batch in micro_batches))
        for batch in sums.micro_batches:
            torch.autograd.backward(self.run.loss_scale.apply(sums.add(self.scorer(self.model, batch))))
        self.run.update(sums, clip_gradients(self.model, 1.0, self.run.loss_scale.factor))
        self.optimizer.zero_grad()
        self.run.save_if_due()

    def train(self) -> None:
        with self.run:
            try:
                self.take_steps(self.total)
            finally:
                self.loop_ended.set()

    def train_until_killed(self, count: int) -> None:
        with self.run:
            self.take_steps(count)
            raise KeyboardInterrupt

    def fail_after(self, count: int) -> None:
        self.take_steps(count)
        raise RuntimeError("in the loop")

    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}


OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda model: AdamW(model.parameters(), lr=0.01, fused=True),
    "sgd": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True),
    "plain": lambda model: Adam(model.parameters(), lr=0.01, foreach=False),
}


def all_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lines(folder: Path) -> list[dict[str, Any]]:
    timing_fields = {"tokens_per_second", "peak_memory_bytes"}
    return [
        {name: value for name, value in line.items() if name not in timing_fields}
        for line in all_lines(folder)
    ]


def test_each_step_is_read_once_and_one_step_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    plain = Readback.read
    steps = PackedRun(config(tmp_path / "a"), NaNLoss(), synchronous=False)

    def read(copy: Readback) -> dict[str, float]:
        reads.append(steps.run.step)
        return plain(copy)

    monkeypatch.setattr(Readback, "read", read)
    assert supports_skipping(steps.optimizer), (
        "must be called before counting, because the first call takes a trial step"
    )
    counter = SyncCounter()
    with steps.run:
        steps.take_steps(5, counter)
    assert not counter.counts
    assert reads == [1, 2, 3, 4, 5], "each step must be read once, before the next step or at the end"


def test_the_counter_counts_synchronizing_operations(tmp_path: Path) -> None:
    x = torch.ones(3)
    with SyncCounter() as counter:
        x.sum().item()
        x[x > 0]
        bool((x > 0).all())
        torch.nonzero(x)
        x.repeat_interleave(torch.tensor([1, 2, 1]))
        x.repeat_interleave(torch.tensor([1, 2, 1]), output_size=4)
    assert counter.counts == {"_local_scalar_dense": 2, "index": 1, "nonzero": 1, "repeat_interleave": 1}
    assert counter.n_constants == 2
    with CopyCounter() as copies:
        x.tolist()
        x.cpu()
    assert copies.counts == {"tolist": 1, "cpu": 1}
    steps = PackedRun(config(tmp_path / "a"), NaNLoss(), synchronous=False, kind="plain")
    counter = SyncCounter()
    with steps.run:
        steps.take_steps(2, counter)
    assert counter.counts["_local_scalar_dense"] >= 2, (
        "if the optimizer does not support skipping, the host must wait once per step"
    )


WIDE_HEADS = SMALL.evolve(head_dim=16)
"""Heads that are wide enough for flex attention."""
ARCHITECTURES: dict[str, Architecture] = {
    "llama": WIDE_HEADS,
    "gemma": WIDE_HEADS.evolve(
        embed_scale=24**0.5,
        window=6,
        full_attention_every=2,
        rope_local_base=500.0,
        attention_softcap=5.0,
        final_softcap=9.0,
    ),
}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "settings", [{"packed_length": 60, "share_prefixes": True}, {"packed_length": 60}, {}]
)
def test_nothing_is_read_back_between_a_batch_and_its_gradients_with_the_choices_of_a_gpu(
    settings: dict[str, Any], architecture: str
) -> None:
    model = Decoder(ARCHITECTURES[architecture])
    scorer = NextToken(LinearCrossEntropy())
    batches: Batches[Example] = Batches(
        prepend_prefix(rows(9), 17),
        2,
        shuffle=True,
        seed=3,
        pad_id=0,
        longest=64,
        fixed_widths=True,
        **settings,
    )
    micro_batches = [next(batches) for _ in range(3)]
    counter, copies = SyncCounter(), CopyCounter()
    with assume_hardware(Hardware("cuda", (9, 0))), uncompiled_flex(), counter, copies:
        for batch in micro_batches:
            torch.autograd.backward(scorer(model, batch).terms["next_token"].total)
    assert (counter.counts, counter.n_constants, copies.counts) == ({}, 0, {})
    assert ("flex_attention" in counter.names) == (bool(settings) or architecture == "gemma")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
@pytest.mark.parametrize("calls", [(), (1,), (4, 5)], ids=["finite", "first step", "third step"])
def test_asynchronous_and_synchronous_runs_are_identical(
    tmp_path: Path, kind: str, calls: tuple[int, ...]
) -> None:
    final_states = []
    for synchronous in (True, False):
        cfg = config(tmp_path / str(synchronous), non_finite="skip")
        steps = PackedRun(cfg, NaNLoss(calls), synchronous=synchronous, kind=kind)
        steps.train()
        final_states.append(
            (steps.parameters(), lines(tmp_path / str(synchronous)), _moments(steps.optimizer))
        )
    (
        (synchronous_run, synchronous_lines, synchronous_moments),
        (asynchronous_run, asynchronous_lines, asynchronous_moments),
    ) = final_states
    assert synchronous_lines == asynchronous_lines
    assert [line["loss"] is None for line in asynchronous_lines].count(True) == (1 if calls else 0)
    assert all(torch.equal(synchronous_run[name], asynchronous_run[name]) for name in synchronous_run)
    assert all(map(torch.equal, synchronous_moments, asynchronous_moments))


def _moments(optimizer: Optimizer) -> list[Tensor]:
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_non_finite_step_ends_the_run_with_the_previous_parameters(
    tmp_path: Path, kind: str, synchronous: bool
) -> None:
    finite_run = PackedRun(config(tmp_path / "good"), NaNLoss(), synchronous=True, kind=kind)
    with finite_run.run:
        finite_run.take_steps(2)
    bad = PackedRun(config(tmp_path / "bad"), NaNLoss((5, 6)), synchronous=synchronous, kind=kind)
    with (
        pytest.raises(FloatingPointError, match=r"step 3: the loss is nan. .*There is no checkpoint"),
        bad.run,
    ):
        bad.take_steps(6)
    assert all(torch.equal(p, finite_run.parameters()[name]) for name, p in bad.parameters().items())


@pytest.mark.parametrize("synchronous", [True, False])
def test_non_finite_step_is_not_checkpointed(tmp_path: Path, synchronous: bool) -> None:
    cfg = config(tmp_path / "a", checkpoints=Checkpoints(every_n_steps=1, at_epoch_ends=False, keep=9))
    steps = PackedRun(cfg, NaNLoss((5,)), synchronous=synchronous)
    with pytest.raises(FloatingPointError, match=r"The last good checkpoint is .*step_2"), steps.run:
        steps.take_steps(6)
    assert checkpoint.steps(tmp_path / "a" / "checkpoints") == [1, 2]


def test_a_background_checkpoint_is_finished_before_a_non_finite_last_step_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Checkpoints(every_n_steps=2, at_epoch_ends=False, asynchronous=True)
    steps = PackedRun(config(tmp_path / "a", checkpoints=rules), NaNLoss((5,)), synchronous=False, total=3)
    plain = checkpoint._save_tensors

    def save_slowly(*args: Any) -> dict[str, list[int]]:
        assert steps.loop_ended.wait(60), "the loop has ended"
        return plain(*args)

    monkeypatch.setattr(checkpoint, "_save_tensors", save_slowly)
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan"):
        steps.train()
    assert checkpoint.steps(tmp_path / "a" / "checkpoints") == [2]


@pytest.mark.parametrize("bad", [(), (5,)])
def test_an_error_in_the_loop_is_raised_after_the_previous_step_is_reported(
    tmp_path: Path, bad: tuple[int, ...]
) -> None:
    steps = PackedRun(config(tmp_path / "a"), NaNLoss(bad), synchronous=False)
    with pytest.raises(RuntimeError, match="in the loop") as caught, steps.run:
        steps.fail_after(3)
    assert [line["step"] for line in lines(tmp_path / "a")] == ([1, 2] if bad else [1, 2, 3])
    notes = "".join(getattr(caught.value, "__notes__", []))
    assert ("a second error followed: FloatingPointError: step 3: the loss is nan" in notes) is bool(bad)


def test_recipe_values_with_reserved_names_are_rejected(tmp_path: Path) -> None:
    steps = PackedRun(config(tmp_path / "a"), NaNLoss(), synchronous=False)
    batches = [next(steps.batches)]
    sums = StepSums(batches, SINGLE_RANK)
    sums.add(steps.scorer(steps.model, batches[0]))
    with pytest.raises(ValueError, match="the name 'lr' is reserved for a built-in metric"):
        steps.run.update(sums, torch.tensor(1.0), lr=0.5)


@pytest.mark.parametrize("is_slow", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("synchronous", [True, False])
def test_step_ends_when_both_host_and_device_have_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: bool, is_slow: bool
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    plain = Readback.read
    steps = PackedRun(config(tmp_path / "a"), NaNLoss(), synchronous=synchronous)

    def read(copy: Readback) -> dict[str, float]:
        if is_slow:  # the device finishes step n at second 10 n, and the host waits
            clock[0], copy.has_waited = 10.0 * steps.run.step, True
        return plain(copy)

    monkeypatch.setattr(Readback, "read", read)
    with steps.run:
        for _ in range(4):
            clock[0] += 2.0
            steps.take_steps(1)
    speeds = [line["tokens_per_second"] for line in all_lines(tmp_path / "a")]
    seconds = 10.0 if is_slow else 2.0
    assert speeds == [round(n_tokens / seconds, 1) for n_tokens in steps.n_tokens]
    assert len(speeds) == 4


def test_resuming_after_a_skipped_step_matches_an_uninterrupted_run(tmp_path: Path) -> None:
    rules = Checkpoints(every_n_steps=3, at_epoch_ends=False)
    uninterrupted = PackedRun(
        config(tmp_path / "a", non_finite="skip", checkpoints=rules), NaNLoss((5,)), synchronous=False
    )
    uninterrupted.train()
    cut = config(tmp_path / "b", non_finite="skip", checkpoints=rules)
    first = PackedRun(cut, NaNLoss((5,)), synchronous=False)
    with pytest.raises(KeyboardInterrupt):
        first.train_until_killed(4)
    resumed = PackedRun(cut, NaNLoss(), synchronous=False)
    assert resumed.run.step == 3
    with resumed.run:
        resumed.take_steps(3)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert all(torch.equal(p, uninterrupted.parameters()[name]) for name, p in resumed.parameters().items())


def test_learning_rate_schedule_advances_even_at_skipped_steps(tmp_path: Path) -> None:
    steps = PackedRun(config(tmp_path / "a", non_finite="skip"), NaNLoss((3,)), synchronous=True)
    steps.train()
    rates = [line["lr"] for line in lines(tmp_path / "a")]
    assert rates == [None if i == 1 else pytest.approx(0.01 * (1 - i / 6)) for i in range(6)]


@pytest.mark.slow
def test_fp16_overflows_are_skipped_identically_on_host_and_device(tmp_path: Path) -> None:
    class Large(NextToken):
        """A loss whose gradients initially overflow in fp16."""

        def score(self, model: Any, batch: Any) -> Score:
            return Score({"next_token": Term(super().score(model, batch).terms["next_token"].total * 2.0**6)})

    final_states = []
    for synchronous in (True, False):
        cfg = config(tmp_path / str(synchronous), dtype="fp16")
        steps = PackedRun(cfg, Large(LinearCrossEntropy()), synchronous=synchronous, kind="adamw", total=30)
        steps.train()
        final_states.append(
            (lines(tmp_path / str(synchronous)), steps.run.loss_scale.state_dict(), steps.parameters())
        )
    assert final_states[0][:2] == final_states[1][:2]
    assert all(torch.equal(final_states[0][2][name], final_states[1][2][name]) for name in final_states[0][2])
    skipped = [line["loss"] is None for line in final_states[0][0]]
    assert any(skipped)
    assert not all(skipped)
    assert not all(skipped[-5:])


def test_optimizers_that_support_skipping_can_skip_a_step() -> None:
    for build in OPTIMIZERS.values():
        layer = nn.Linear(3, 3)
        optimizer = build(layer)
        if not supports_skipping(optimizer):
            continue
        layer(torch.ones(3)).sum().backward()
        before = copy.deepcopy(layer.state_dict())
        skip_step_if(optimizer, torch.tensor(data=True))
        optimizer.step()
        assert all(map(torch.equal, before.values(), layer.state_dict().values()))
