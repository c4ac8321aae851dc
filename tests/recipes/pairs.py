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
    """The preference loss: beta-DPO (Wu et al. 2024, arXiv:2407.08639)."""

    beta: float = field(default=0.1, validator=above(0))
    """Strength of the pull towards the reference model when a step's mean margin equals the moving average."""
    sensitivity: float = field(default=0.6, validator=at_least(0))
    """Sensitivity of beta to the mean margin of a step's pairs; 0: DPO (Rafailov et al. 2023, arXiv:2305.18290)."""
    momentum: float = field(default=0.9, validator=between(0, 1))
    """Momentum of the moving average of the margins."""
    answer_weight: float = field(default=0.2, validator=at_least(0))
    """Weight of the preferred answers' negative log-likelihood, divided by the number of targets of all answers."""


class PairScorer(Scorer):
    """Compares the model with the same model without adapters. Checkpoints contain the moving average of margins."""

    def __init__(self, section: Preference, world: World) -> None:
        self._section, self._world = section, world
        self._average, self._beta = world.tensor([0.0, section.beta])
        self._reference: dict[Batch, Tensor] = {}

    def prepare(self, model: Decoder, micro_batches: Sequence[Batch]) -> None:
        """Score the answers with the reference model, and set beta from the mean margin over all ranks."""
        section, world = self._section, self._world
        self._beta = world.tensor([section.beta])[0]
        with adapters_disabled(model):
            self._reference = {batch: answer_log_probs(model, batch) for batch in micro_batches}
        if not model.training:  # the validation loss must not depend on the batches
            return
        margins = [  # fillers have no pairs
            self._margins(batch, answer_log_probs(model, batch)).sum() * (not batch.is_filler)
            for batch in micro_batches
        ]
        n_pairs = world.tensor([sum(batch.counts["pairs"] for batch in micro_batches)])
        total, count = world.sum(torch.cat([torch.stack(margins).sum()[None], n_pairs]))
        margin = section.beta * total / count.clamp(min=1)
        self._beta = section.beta * (1 + section.sensitivity * (margin - self._average)).clamp(min=0.1)
        average = torch.lerp(margin, self._average, section.momentum)
        self._average = torch.where(margin.isfinite(), average, self._average)  # a NaN would persist

    def score(self, model: Decoder, batch: Batch) -> Score:
        """Return the sums of both terms and of the metrics over a micro-batch."""
        answers = answer_log_probs(model, batch)  # [pairs, 2]
        margins = self._margins(batch, answers)  # [pairs]
        preference = Term(-logsigmoid(self._beta * margins).sum(), "pairs")
        answer = Term(-answers[:, 0].sum(), "targets", self._section.answer_weight)
        accuracy = Term((margins > 0).sum(), "pairs")
        beta = Term(self._beta * len(margins), "pairs")
        return Score({"preference": preference, "answer": answer}, {"accuracy": accuracy, "beta": beta})

    def _margins(self, batch: Batch, answers: Tensor) -> Tensor:
        """Return the log-ratio of preferred to rejected answer, relative to the reference (nats), [pairs]."""
        return torch.sub(*(answers - self._reference[batch]).unbind(1))

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in checkpoints."""
        return {"average": self._average.item()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the saved state."""
        self._average = self._world.tensor([state["average"]])[0]


def answer_log_probs(model: Decoder, batch: Batch) -> Tensor:
    """Return the log-probability of each answer under the model, [pairs, 2], the preferred one first."""
    return batch.sum_by_sequence(training.target_log_probs(model, batch)).view(-1, 2)


@define(kw_only=True)
class PairsConfig(training.FinetuneConfig):
    """The config of the pairs recipe."""

    dataset: Annotated[Component[Dataset[Encoded[Pair]]], Passed(1)]
    """The training dataset; the recipe passes the tokenizer."""
    lora: training.Lora = field(factory=training.Lora)
    """The adapters to train; the model without them is the reference."""
    preference: Preference = field(factory=Preference)
    """Settings of the preference loss."""


@config.parse
def main(cfg: PairsConfig) -> None:
    """Fine-tune adapters on pairs; `final/` is a PEFT adapter folder."""
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
                    torch.autograd.backward(run.loss_scale.apply(sums.add(scorer(model, batch))))
                grad_norm = training.clip_gradients(model, cfg.clip_grad_norm, run.loss_scale.factor)
                run.update(sums, grad_norm, epoch=float(batches.epoch))
                optimizer.zero_grad()
                validator.validate_if_due(run)
                run.save_if_due()

        training.save_model(cfg, model, world, "final")
