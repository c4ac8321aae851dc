"""Fine-tune every weight of a model.

tune full_finetune --config smollm2_135m_full
"""

import torch
from attrs import define

from torchtune import config, training


@define(kw_only=True)
class FullFinetuneConfig(training.FinetuneConfig):
    """Everything the full_finetune recipe reads."""


@config.parse
def main(cfg: FullFinetuneConfig) -> None:
    """Fine-tune every weight of a model; `final/` becomes a Hugging Face folder."""
    with training.start(cfg) as world:
        tokenizer = config.instantiate(cfg.tokenizer)
        with torch.device("meta"):
            model = config.instantiate(cfg.model)
        training.check_vocabulary(tokenizer, model)
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
        cfg.placement.place(model, world, cfg.model_directory, dtype=cfg.dtype, enable_fsdp=cfg.enable_fsdp)
        loss_fn = training.step_loss(config.instantiate(cfg.loss, reduction="sum"), cfg.dtype)
        optimizer = training.build_optimizer(cfg.optimizer, model.parameters())
        total_steps = training.count_steps(cfg, batches)
        scheduler = training.build_scheduler(cfg.lr_scheduler, optimizer, total_steps)
        scale = training.LossScale(cfg.dtype)
        state = training.open_state(
            cfg, model, optimizer, scheduler, batches, scale, world=world, total_steps=total_steps
        )
        guard = training.Guard(cfg.non_finite, state, scale, dataset, world)
        metrics = training.open_metrics(cfg, model, state, world, total_steps)
        validator = training.open_validator(cfg, held_out, tokenizer, model, loss_fn, state, metrics, world)

        with batches, metrics, training.Saving(cfg.checkpoints, state, batches, world) as saving:
            for step in validator.between(saving.steps(total_steps)):
                micro_batches = [
                    next(batches).to(world.device) for _ in range(cfg.gradient_accumulation_steps)
                ]
                n_targets = world.data_sum(sum(batch.n_targets for batch in micro_batches))
                if n_targets == 0:
                    metrics.skip(step, micro_batches, "no target token")
                    continue
                losses = []
                for batch in micro_batches:
                    loss = loss_fn(model, batch)  # summed over target tokens
                    torch.autograd.backward(loss / n_targets * world.data_size * scale.factor)  # averaged
                    losses.append(loss.item())
                    del loss  # what is left of its graph would split the memory that the next pass takes
                mean_loss = world.data_sum(sum(losses)) / n_targets
                grad_norm = training.clip_gradients(model, cfg.clip_grad_norm, scale.factor)
                lr = float(scheduler.get_last_lr()[0])
                if guard.passes(mean_loss, grad_norm, losses, micro_batches):
                    optimizer.step()
                    scheduler.step()
                    metrics.log(step, micro_batches, loss=mean_loss, lr=lr, grad_norm=grad_norm)
                else:
                    metrics.skip(step, micro_batches, guard.reason)
                optimizer.zero_grad()

        training.save_model(cfg, model, world, "final")


if __name__ == "__main__":
    main()
