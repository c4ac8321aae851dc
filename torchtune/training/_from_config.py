"""What a config says, built: its batches, its steps, its model where it is to be trained."""

from typing import cast

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from torchtune.config import fixed_tree, instantiate
from torchtune.data import Batches, Encoded, Examples, Tokenizer
from torchtune.modules import Decoder
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._metrics import Metrics
from torchtune.training._placement import place
from torchtune.training._scaling import LossScale
from torchtune.training._schedules import steps_in
from torchtune.training._state import State
from torchtune.training._world import World


def open_batches(
    cfg: FinetuneConfig, dataset: Dataset[Encoded], tokenizer: Tokenizer, model: Decoder, world: World
) -> Batches:
    """Make the batches of this rank, as a config describes them.

    Args:
        cfg: Says how many rows a batch has, in which order they come, and whether they are packed.
        dataset: The rows; it has a length.
        tokenizer: Tells what shorter rows are filled up with.
        model: Tells how long an example may be; it may be on the meta device.
        world: This process and its fellows.

    Raises:
        OSError: The token cache's folder cannot be made.
        ValueError: The dataset is empty.
    """
    packing = cfg.packing
    if cfg.token_cache is not None and callable(use_cache := getattr(dataset, "use_cache", None)):
        use_cache(cfg.token_cache)
    return Batches(
        cast("Examples", dataset),
        cfg.batch_size,
        shuffle=cfg.shuffle,
        seed=world.seed,
        pad_id=tokenizer.pad_id,
        rank=world.data_rank,
        size=world.data_size,
        longest=model.architecture.max_seq_len,
        packed_length=None if packing is None else packing.length,
        fit="best" if packing is None else packing.fit,
        window=1024 if packing is None else packing.window,
        group_by_length=cfg.group_by_length,
        workers=cfg.data_workers,
    )


def count_steps(cfg: FinetuneConfig, batches: Batches) -> int:
    """Count a run's optimizer steps.

    Args:
        cfg: Says how often the examples are read, and when the run ends otherwise.
        batches: Tell how many batches that takes.
    """
    if cfg.max_steps is not None:
        return cfg.max_steps
    n_batches = batches.batches_in(cfg.epochs)
    return steps_in(n_batches, cfg.epochs, cfg.gradient_accumulation_steps, cfg.max_steps_per_epoch)


def place_model(cfg: FinetuneConfig, model: Decoder, world: World) -> None:
    """Bring a model from the meta device to where it is trained, in place, as a config describes it (`place`).

    Args:
        cfg: Says on what, in which precision, how it is split, and what it keeps for the backward pass.
        model: Built on `torch.device("meta")`, with LoRA layers added and parameters frozen as they are to be.
        world: This process and its fellows.

    Raises:
        FileNotFoundError: The folder of weights or a file in it is missing.
        ValueError: The folder's weights are not those of this model, or the ranks cannot be split like that.
    """
    place(
        model,
        world,
        dtype=cfg.dtype,
        weights_dtype=cfg.weights_dtype if cfg.weights_dtype != "fp32" else None,
        enable_fsdp=cfg.enable_fsdp,
        sharding=cfg.sharding,
        activation_checkpointing=cfg.activation_checkpointing,
        compile=cfg.compile,
        model_directory=cfg.model_directory,
    )


def open_state(  # noqa: PLR0913, PLR0917 - a run is all of these.
    cfg: FinetuneConfig,
    model: Decoder,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Batches,
    scale: LossScale,
    *,
    world: World,
    total_steps: int,
) -> State:
    """Collect what a run must remember, and go to the newest checkpoint of its folder, if there is one.

    Args:
        cfg: Names the folder, and says what a run that goes on must have in common with the one before.
        model: Placed; its trained parameters are those with `requires_grad`.
        optimizer: Of those.
        scheduler: Of the optimizer.
        batches: Where the data come from.
        scale: The loss scale.
        world: This process and its fellows.
        total_steps: Optimizer steps of the whole run.

    Raises:
        ValueError: The newest checkpoint is damaged, or of another run.
    """
    is_frozen = any(not p.requires_grad for p in model.parameters())
    state = State(
        cfg.output_dir,
        model,
        optimizer,
        scheduler,
        batches,
        world=world,
        scale=scale,
        total_steps=total_steps,
        base=cfg.model_directory if is_frozen else None,
        config=fixed_tree(cfg),
    )
    state.resume()
    return state


def open_metrics(cfg: FinetuneConfig, state: State, world: World, total_steps: int) -> Metrics:
    """Make a run's metrics, with the logger that its config names on rank 0."""
    logger = instantiate(cfg.metric_logger) if world.is_main else None
    return Metrics(cfg.output_dir, logger, world, state.step, total_steps, log_every=cfg.log_every_n_steps)
