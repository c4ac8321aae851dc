"""Fine-tune adapters on pairs of answers: beta-DPO, plus the likelihood of the preferred answer.

tune ./pairs.py --config pairs.yaml
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from attrs import define, field
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.data import Dataset

from torchtune import config, training
from torchtune.config import Component, Passed, above, at_least, between
from torchtune.data import Batch, Encoded, Pair
from torchtune.distributed import World
from torchtune.modules import Decoder, adapters_disabled
from torchtune.training import Score, Scorer, Term


@define(kw_only=True)
class Preference:
    """How answers are compared: beta-DPO (Wu et al. 2024, arXiv:2407.08639)."""

    beta: float = field(default=0.1, validator=above(0))
    """How close the model stays to the reference, at a step whose margin is the usual one."""
    sensitivity: float = field(default=0.6, validator=at_least(0))
    """How much beta grows with the margin of a step's pairs; 0: DPO (Rafailov et al. 2023, arXiv:2305.18290)."""
    momentum: float = field(default=0.9, validator=between(0, 1))
    """How slowly the usual margin follows the margins of the steps."""
    answer_weight: float = field(default=0.2, validator=at_least(0))
    """Weight of the preferred answer's negative log-likelihood, nats per target of both answers."""


class PairScorer(Scorer):
    """Compares the model with itself without adapters. Its usual margin must survive a restart."""

    def __init__(self, section: Preference, world: World) -> None:
        self._section, self._world = section, world
        self._usual, self._beta = world.tensor([0.0, section.beta])
        self._reference: dict[Batch, Tensor] = {}

    def prepare(self, model: Decoder, micro_batches: Sequence[Batch]) -> None:
        """Score the answers by the reference model, and set beta from the margin over the pairs of all ranks."""
        section, world = self._section, self._world
        self._beta = world.tensor([section.beta])[0]
        with adapters_disabled(model):
            self._reference = {batch: answer_log_probs(model, batch) for batch in micro_batches}
        if not model.training:  # the loss of held-out pairs must not depend on how they are batched
            return
        margins = [
            self._margins(batch, answer_log_probs(model, batch)).sum() * (not batch.is_filler)  # of no pair
            for batch in micro_batches
        ]
        n_pairs = world.tensor([sum(batch.counts["pairs"] for batch in micro_batches)])
        total, count = world.sum(torch.cat([torch.stack(margins).sum()[None], n_pairs]))
        margin = section.beta * total / count.clamp(min=1)
        self._beta = section.beta * (1 + section.sensitivity * (margin - self._usual)).clamp(min=0.1)
        usual = torch.lerp(margin, self._usual, section.momentum)
        self._usual = torch.where(margin.isfinite(), usual, self._usual)  # a NaN would stay forever

    def score(self, model: Decoder, batch: Batch) -> Score:
        """Sum both terms over a micro-batch."""
        answers = answer_log_probs(model, batch)  # [pairs, 2]
        margins = self._margins(batch, answers)  # [pairs]
        preference = Term(-logsigmoid(self._beta * margins).sum(), "pairs")
        answer = Term(-answers[:, 0].sum(), "targets", self._section.answer_weight)
        accuracy = Term((margins > 0).sum(), "pairs")
        beta = Term(self._beta * len(margins), "pairs")
        return Score({"preference": preference, "answer": answer}, {"accuracy": accuracy, "beta": beta})

    def _margins(self, batch: Batch, answers: Tensor) -> Tensor:
        """Return by how many nats the model prefers the better answer more than the reference does, [pairs]."""
        return torch.sub(*(answers - self._reference[batch]).unbind(1))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the scorer."""
        return {"usual": self._usual.item()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the usual margin of the saved run."""
        self._usual = self._world.tensor([state["usual"]])[0]


def answer_log_probs(model: Decoder, batch: Batch) -> Tensor:
    """Return the log-probability of each answer under the model, [pairs, 2], the preferred one first."""
    return batch.sum_by_sequence(training.target_log_probs(model, batch)).view(-1, 2)


@define(kw_only=True)
class PairsConfig(training.FinetuneConfig):
    """Everything the pairs recipe reads."""

    dataset: Annotated[Component[Dataset[Encoded[Pair]]], Passed(1)]
    """The pairs; the recipe passes the tokenizer."""
    lora: training.Lora = field(factory=training.Lora)
    """Which adapters are trained; without them, the model is the reference."""
    preference: Preference = field(factory=Preference)
    """How answers are compared."""


@config.parse
def main(cfg: PairsConfig) -> None:
    """Fine-tune adapters on pairs; `final/` becomes a PEFT adapter folder."""
    with training.start(cfg) as world:
        tokenizer, model = training.build_model(cfg)
        dataset, held_out = training.open_datasets(cfg, tokenizer, model, world)
        batches = cfg.loading.batches(
            dataset, tokenizer, model, world, batch_size=cfg.batch_size, shuffle=cfg.shuffle, output_dir=cfg.output_dir
        )  # fmt: skip
        cfg.lora.add_to(model)
        cfg.placement.place(model, world, cfg.model_directory, dtype=cfg.dtype, enable_fsdp=cfg.enable_fsdp)
        scorer = PairScorer(cfg.preference, world)
        optimizer = training.build_optimizer(cfg.optimizer, model)
        schedule = training.build_schedule(cfg, optimizer, batches)
        validator = training.build_validator(cfg, held_out, scorer, tokenizer, model, world)
        parts: dict[str, training.Stateful] = {"validator": validator, "scorer": scorer}
        run = training.Run(cfg, model, optimizer, schedule, batches, world, parts=parts)

        with batches, run:
            validator.validate_if_due(run)
            while not (run.is_complete or validator.should_stop):
                step = batches.next_step(cfg.gradient_accumulation_steps)
                micro_batches = [batch.to(world.device) for batch in step]
                scorer.before_step(model, micro_batches)
                sums = training.StepSums(micro_batches, world)
                for batch in micro_batches:
                    torch.autograd.backward(run.scale.scaled(sums.add(scorer(model, batch))))
                grad_norm = training.clip_gradients(model, cfg.clip_grad_norm, run.scale.factor)
                run.update(sums, grad_norm, epoch=float(batches.epoch))
                optimizer.zero_grad()
                validator.validate_if_due(run)
                run.save_if_due()

        training.save_model(cfg, model, world, "final")
