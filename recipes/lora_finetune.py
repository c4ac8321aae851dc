"""Train low-rank adapters (LoRA) on a model with frozen weights.

tune lora_finetune --config smollm2_135m_lora
"""

from typing import Annotated

import torch
from attrs import define, field
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import Dataset

from torchtune import config, training
from torchtune.config import Component, Passed, lazy
from torchtune.data import Encoded, Example
from torchtune.modules import LinearCrossEntropy


@define(kw_only=True)
class LoraFinetuneConfig(training.FinetuneConfig):
    """The config of the lora_finetune recipe."""

    dataset: Annotated[Component[Dataset[Encoded[Example]]], Passed(1)]
    """The training dataset; the recipe passes the tokenizer."""
    loss: Annotated[Component[nn.Module], Passed(0, reduction="sum")] = lazy(LinearCrossEntropy)
    """The loss: a LinearCrossEntropy, or any loss that accepts (logits, labels); the recipe sets reduction=sum."""
    lora: training.Lora = field(factory=training.Lora)
    """The adapters to train."""
    optimizer: Annotated[Component[Optimizer], Passed(1)] = field(
        default=lazy(AdamW, lr=2e-4, fused=True), validator=training.OPTIMIZER_RANGES
    )
    """The optimizer; the recipe passes the adapters' parameters."""


@config.parse
def main(cfg: LoraFinetuneConfig) -> None:
    """Train low-rank adapters; `final/` is a PEFT adapter folder."""
    with training.start(cfg) as world:
        tokenizer, model = training.build_model(cfg)  # on the meta device
        dataset, held_out = training.open_datasets(cfg, tokenizer, model, world)
        batches = cfg.loading.batches(
            dataset,
            tokenizer,
            model,
            world,
            batch_size=cfg.batch_size,
            shuffle=cfg.shuffle,
            output_dir=cfg.output_dir,
        )
        cfg.lora.add_to(model)
        cfg.placement.place(model, world, cfg.model_directory, dtype=cfg.dtype, enable_fsdp=cfg.enable_fsdp)
        cfg.lora.load_into(model)
        scorer = training.NextToken(config.instantiate(cfg.loss, reduction="sum"))
        optimizer = training.build_optimizer(cfg.optimizer, model)
        schedule = training.build_schedule(cfg, optimizer, batches)
        validator = training.build_validator(cfg, held_out, scorer, tokenizer, model, world)
        parts = {"validator": validator}
        run = training.Run(cfg, model, optimizer, schedule, batches, world, parts=parts)

        with batches, run:
            validator.validate_if_due(run)
            while not (run.is_complete or validator.should_stop):
                step = batches.next_step(cfg.gradient_accumulation_steps)
                micro_batches = [batch.to(world.device) for batch in step]
                scorer.before_step(model, micro_batches)
                sums = training.StepSums(micro_batches, world)
                for batch in micro_batches:
                    loss = sums.add(scorer(model, batch))  # divides each term by its count over all ranks
                    torch.autograd.backward(run.loss_scale.apply(loss))
                    del loss  # otherwise its graph stays alive and fragments memory in the next pass
                grad_norm = training.clip_gradients(model, cfg.clip_grad_norm, run.loss_scale.factor)
                run.update(sums, grad_norm)  # steps the optimizer if the loss and the gradient are finite
                optimizer.zero_grad()
                validator.validate_if_due(run)
                run.save_if_due()  # and stops if a signal requested it

        training.save_model(cfg, model, world, "final")


if __name__ == "__main__":
    main()
