"""What a config says, built: its batches, its steps, its model where it is to be trained, and what becomes of it."""

from functools import partial
from typing import Literal, cast

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchtune.config import instantiate
from torchtune.config.model import fixed_tree
from torchtune.data import Batches, Examples, Tokenizer, split_off, use_cache
from torchtune.formats import save_hf_folder, save_peft_adapter
from torchtune.modules import Decoder, has_adapters
from torchtune.runs import RunFolder
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._flops import peak_flops, step_flops
from torchtune.training._metrics import Metrics
from torchtune.training._placement import place, whole_state
from torchtune.training._scaling import LossScale
from torchtune.training._schedules import steps_in
from torchtune.training._state import State
from torchtune.training._step import StepLoss
from torchtune.training._validation import HeldOut, Validator, hold_out
from torchtune.training._world import World


def open_datasets(
    cfg: FinetuneConfig, tokenizer: Tokenizer, model: Decoder, world: World
) -> tuple[Examples, HeldOut | None]:
    """Open the rows that are trained on, and those that are held out.

    Args:
        cfg: Names them, or the share of the former that becomes the latter.
        tokenizer: Encodes them.
        model: Tells how long an example may be; it may be on the meta device.
        world: Knows the seed that a share is drawn from.

    Returns:
        The rows, and those that are held out, encoded; None if there is no validation.

    Raises:
        InstantiationError: A dataset refuses its arguments, or its rows cannot be read.
        ValueError: No share of the rows can be held out, none has a target, or a prompt is too long.
    """
    dataset = cast("Examples", instantiate(cfg.dataset, tokenizer))
    section = cfg.validation
    if section is None:
        return dataset, None
    if section.share is None:
        rows = cast("Examples", instantiate(section.dataset, tokenizer))
    else:
        dataset, rows = split_off(dataset, section.share, world.seed)
    return dataset, hold_out(section, rows, tokenizer, model)


def open_batches(
    cfg: FinetuneConfig,
    dataset: Examples,
    tokenizer: Tokenizer,
    model: Decoder,
    world: World,
    *,
    logs: bool = True,
) -> Batches:
    """Make the batches of this rank, as a config describes them.

    Args:
        cfg: Says how many rows a batch has, in which order they come, and whether they are packed.
        dataset: The rows; it has a length.
        tokenizer: Tells what shorter rows are filled up with.
        model: Tells how long an example may be; it may be on the meta device.
        world: This process and its fellows.
        logs: Whether what happens to rows is logged.

    Raises:
        OSError: The token cache's folder cannot be made.
        ValueError: The dataset is empty.
    """
    packing = cfg.packing
    if cfg.token_cache is not None:
        use_cache(dataset, cfg.token_cache)
    return Batches(
        dataset,
        cfg.batch_size,
        shuffle=cfg.shuffle,
        seed=world.seed,
        pad_id=tokenizer.pad_id,
        rank=world.data_rank,
        size=world.data_size,
        longest=model.architecture.max_seq_len,
        packed_length=None if packing is None else packing.length,
        fit="best" if packing is None else packing.fit,
        share_prefixes=packing is not None and packing.share_prefixes,
        window=1024 if packing is None else packing.window,
        group_by_length=cfg.group_by_length,
        workers=cfg.data_workers,
        record=(lambda totals: RunFolder(cfg.output_dir).update_record({"data": totals}))
        if world.is_main
        else None,
        logs=logs,
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
        weights_dtype=cfg.weights_dtype,
        enable_fsdp=cfg.enable_fsdp,
        sharding=cfg.sharding,
        activation_checkpointing=cfg.activation_checkpointing,
        lean_layers=cfg.lean_layers,
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


def open_metrics(
    cfg: FinetuneConfig, model: Decoder, state: State, world: World, total_steps: int
) -> Metrics:
    """Make a run's metrics, with the loggers that its config names on rank 0."""
    named = cfg.metric_logger if isinstance(cfg.metric_logger, list) else [cfg.metric_logger]
    return Metrics(
        cfg.output_dir,
        [instantiate(logger) for logger in named if logger is not None and world.is_main],
        world,
        state.step,
        total_steps,
        log_every=cfg.log_every_n_steps,
        flops=step_flops(model),
        peak=peak_flops(world.device, cfg.dtype),
        profiling=cfg.profiling,
    )


def open_validator(  # noqa: PLR0913, PLR0917 - it sees the whole run.
    cfg: FinetuneConfig,
    held_out: HeldOut | None,
    tokenizer: Tokenizer,
    model: Decoder,
    loss_fn: StepLoss,
    state: State,
    metrics: Metrics,
    world: World,
) -> Validator:
    """Make what looks at held-out rows between a run's steps; nothing does where the config says so.

    Args:
        cfg: Says how many rows a batch has, and what the model is written with.
        held_out: The rows, and how often.
        tokenizer: Fills rows up, and decodes answers.
        model: Placed.
        loss_fn: The training step's.
        state: Keeps the lowest loss.
        metrics: Are told.
        world: This process and its fellows.
    """
    section = cfg.validation
    return Validator(
        held_out,
        model=model,
        loss_fn=loss_fn,
        tokenizer=tokenizer,
        batch_size=(section and section.batch_size) or cfg.batch_size,
        state=state,
        metrics=metrics,
        world=world,
        save=partial(save_model, cfg, model, world),
    )


def save_model(cfg: FinetuneConfig, model: Decoder, world: World, name: Literal["final", "best"]) -> None:
    """Write a model into a folder of the run, as others load it; all ranks must call it.

    Adapters become a PEFT folder, which is for the base in `model_directory`; any other model becomes a Hugging Face
    folder with its tokenizer, in the precision that it computes in.

    Args:
        cfg: Names the run's folder, and what the model came from.
        model: Placed.
        world: This process and its fellows.
        name: The folder's name in that of the run.

    Raises:
        OSError: The folder cannot be written; what stood there is as it was.
    """
    run = RunFolder(cfg.output_dir)
    folder = run.final if name == "final" else run.best
    is_adapted = has_adapters(model)
    state = whole_state(model, world, None if is_adapted else cfg.dtype)
    if state is None:
        return
    if is_adapted:
        save_peft_adapter(model, folder, base_model=cfg.model_directory, state=state, overwrite=True)
    else:
        save_hf_folder(
            model, folder, tokenizer_directory=cfg.tokenizer_directory, state=state, overwrite=True
        )
