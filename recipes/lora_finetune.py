"""Fine-tune low-rank adapters beside a model's frozen weights.

tune lora_finetune --config smollm2_135m_lora
"""

from pathlib import Path
from typing import Annotated

import torch
from attrs import define, field
from torch.optim import AdamW, Optimizer

from torchtune import config, training
from torchtune.config import Component, Passed, lazy
from torchtune.models import save_peft_adapter


@define(kw_only=True)
class LoraFinetuneConfig(training.FinetuneConfig):
    """Everything the lora_finetune recipe reads."""

    lora: training.Lora = field(factory=training.Lora)
    """Which adapters are trained."""
    optimizer: Annotated[Component[Optimizer], Passed(1)] = field(
        default=lazy(AdamW, lr=2e-4, fused=True), validator=training.RATES
    )
    """The optimizer; the recipe passes the adapters' parameters."""


@config.parse
def main(cfg: LoraFinetuneConfig) -> None:
    """Fine-tune low-rank adapters; `final/` becomes a PEFT adapter folder."""
    with training.start(cfg) as world:
        tokenizer = config.instantiate(cfg.tokenizer)
        with torch.device("meta"):
            model = config.instantiate(cfg.model)
        training.check_vocabulary(tokenizer, model)
        dataset = config.instantiate(cfg.dataset, tokenizer)
        batches = training.open_batches(cfg, dataset, tokenizer, model, world)
        cfg.lora.add_to(model)
        training.place(
            model, world, dtype=cfg.dtype, enable_fsdp=cfg.enable_fsdp, model_directory=cfg.model_directory
        )
        loss_fn = training.step_loss(config.instantiate(cfg.loss, reduction="sum"), cfg.dtype)
        optimizer = config.instantiate(cfg.optimizer, [p for p in model.parameters() if p.requires_grad])
        total_steps = training.count_steps(
            batches.batches_in(cfg.epochs),
            cfg.epochs,
            cfg.gradient_accumulation_steps,
            cfg.max_steps_per_epoch,
        )
        scheduler = training.build_scheduler(cfg.lr_scheduler, optimizer, total_steps)
        state = training.State(cfg.output_dir, model, optimizer, scheduler, batches, world=world)
        state.resume()
        logger = config.instantiate(cfg.metric_logger) if world.is_main else None
        metrics = training.Metrics(
            cfg.output_dir, logger, world, state.step, total_steps, log_every=cfg.log_every_n_steps
        )

        with batches, metrics:
            while state.step < total_steps:
                micro_batches = [
                    next(batches).to(world.device) for _ in range(cfg.gradient_accumulation_steps)
                ]
                n_targets = world.data_sum(sum(batch.n_targets for batch in micro_batches))
                state.step += 1
                if n_targets == 0:
                    metrics.skip(state.step, micro_batches)
                    continue
                loss_sum = 0.0
                for batch in micro_batches:
                    loss = loss_fn(model, batch)  # summed over target tokens
                    torch.autograd.backward(loss / n_targets * world.data_size)  # ranks are averaged
                    loss_sum += loss.item()
                grad_norm = training.clip_gradients(model, cfg.clip_grad_norm)
                lr = float(scheduler.get_last_lr()[0])
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                mean_loss = world.data_sum(loss_sum) / n_targets
                metrics.log(state.step, micro_batches, loss=mean_loss, lr=lr, grad_norm=grad_norm)
                if cfg.save_every_n_steps and state.step % cfg.save_every_n_steps == 0:
                    state.save(keep=cfg.keep_checkpoints)

        if (adapters := training.whole_state(model, world)) is not None:
            save_peft_adapter(
                model,
                Path(cfg.output_dir, "final"),
                base_model=cfg.model_directory,
                state=adapters,
                overwrite=True,
            )


if __name__ == "__main__":
    main()
