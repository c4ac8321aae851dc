"""Build the model, datasets, schedule and validator of a config, and save the model."""

from functools import partial
from typing import Any, Literal, cast

import torch
from torch.optim import Optimizer

from torchtune.config import ConfigError, Mistake, instantiate
from torchtune.config.model import dotpath, fields, item_mismatch
from torchtune.data import Batches, LeftOut, Rows, Tokenizer, items_of, split_off
from torchtune.distributed import World
from torchtune.formats import save_hf_folder, save_peft_adapter
from torchtune.models import check_vocabulary
from torchtune.modules import Decoder, has_adapters
from torchtune.runs import RunFolder, check_model_folder
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._placement import resolve_dtype, whole_state
from torchtune.training._schedules import Schedule, build_scheduler
from torchtune.training._score import Scorer
from torchtune.training._validation import HeldOut
from torchtune.training._validator import Validator


def build_model(cfg: FinetuneConfig) -> tuple[Tokenizer, Decoder]:
    """Build a config's tokenizer, and its model on the meta device.

    Raises:
        InstantiationError: One of them rejects its arguments.
        ConfigError: There is no model's folder at `model_directory`.
        ValueError: The tokenizer has ids that the model's vocabulary lacks.
    """
    if cfg.model_directory is not None:
        try:
            check_model_folder(cfg.model_directory)
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError([Mistake("run", str(error), path=("model_directory",))]) from error
    tokenizer = instantiate(cfg.tokenizer)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    check_vocabulary(tokenizer, model)
    return tokenizer, model


def open_datasets(
    cfg: FinetuneConfig, tokenizer: Tokenizer, model: Decoder, world: World
) -> tuple[Rows[Any], HeldOut | None]:
    """Open the training dataset and the held-out rows.

    Args:
        cfg: Its `dataset` and `validation`.
        tokenizer: Encodes the rows.
        model: Limits the length of examples; it may be on the meta device.
        world: Its seed draws the share of rows that is held out.

    Returns:
        The training dataset, and the encoded held-out rows; None for the latter if there is no validation.

    Raises:
        InstantiationError: A dataset rejects its arguments, or its rows cannot be read.
        ValueError: The items are not of the kind that the recipe declares, no share of the rows can be held out, none
            has a target, or a prompt is too long.
    """
    dataset = _open(cfg, cfg.dataset, "dataset", tokenizer)
    section = cfg.validation
    if section is None:
        return dataset, None
    if section.share is None:
        rows = _open(cfg, section.dataset, "validation.dataset", tokenizer)
    else:
        dataset, rows = split_off(dataset, section.share, world.seed)
    return dataset, section.hold_out(rows, tokenizer, model)


def _open(cfg: FinetuneConfig, component: Any, name: str, tokenizer: Tokenizer) -> Rows[Any]:
    """Build a dataset, and compare its first item with what the recipe reads: its class may not say what it yields."""
    rows = cast("Rows[Any]", instantiate(component, tokenizer))
    config_class: type = type(cfg)
    encoded = rows[0] if len(rows) else ()
    items = () if isinstance(encoded, LeftOut) else items_of(encoded)
    reason = item_mismatch(items[0], fields(config_class)["dataset"].type) if items else None
    if reason:
        raise ValueError(f"{name}: {dotpath(component.func)} {reason}")
    return rows


def count_steps(cfg: FinetuneConfig, batches: Batches[Any]) -> int:
    """Count the optimizer steps of a run, which may be an estimate (`Batches.steps_in`).

    Args:
        cfg: Its epochs and step limits.
        batches: The run's batches.

    Raises:
        ValueError: No row has a target, as far as they are looked at.
    """
    steps = batches.steps_in(cfg.epochs, cfg.gradient_accumulation_steps)
    if cfg.max_steps is not None:
        return cfg.max_steps
    return steps if cfg.step_limit is None else min(steps, cfg.step_limit)


def build_schedule(cfg: FinetuneConfig, optimizer: Optimizer, batches: Batches[Any]) -> Schedule:
    """Build the learning rate schedule of a run, whose length follows from its batches and the config's limits.

    Raises:
        InstantiationError: The scheduler rejects its arguments.
        ValueError: A recipe's loop does not support the scheduler, or no row has a target.
    """
    total_steps = count_steps(cfg, batches)
    return Schedule(build_scheduler(cfg.lr_scheduler, optimizer, total_steps), total_steps)


def build_validator(  # noqa: PLR0917 - validation needs most parts of a run.
    cfg: FinetuneConfig,
    held_out: HeldOut | None,
    scorer: Scorer,
    tokenizer: Tokenizer,
    model: Decoder,
    world: World,
) -> Validator:
    """Build the validator, which does nothing if no rows are held out.

    Args:
        cfg: Its batch sizes and folders.
        held_out: The encoded held-out rows.
        scorer: The scorer of the training steps.
        tokenizer: Pads rows, and decodes answers.
        model: Placed.
        world: The ranks of this run.
    """
    batch_size = None if cfg.validation is None else cfg.validation.batch_size
    return Validator(
        held_out,
        model,
        scorer,
        tokenizer,
        batch_size or cfg.batch_size,
        world,
        cfg.output_dir,
        partial(save_model, cfg, model, world, "best"),
    )


def save_model(cfg: FinetuneConfig, model: Decoder, world: World, name: Literal["final", "best"]) -> None:
    """Write a model into a folder of the run, in the format of other libraries; all ranks must call it.

    Adapters become a PEFT folder that refers to the base model in `model_directory`; any other model becomes a Hugging
    Face folder, in the precision of computing. Both have the files of the tokenizer, an adapter only if there are any.

    Args:
        cfg: Its folders and precision.
        model: Placed.
        world: The ranks of this run.
        name: The folder's name within the run's folder.

    Raises:
        OSError: The folder cannot be written; an earlier one of its name is unchanged.
    """
    run = RunFolder(cfg.output_dir)
    folder = run.final if name == "final" else run.best
    is_adapted = has_adapters(model)
    state = whole_state(model, world, None if is_adapted else resolve_dtype(cfg.dtype, world.device))
    if state is None:
        return
    if is_adapted:
        save_peft_adapter(
            model,
            folder,
            base_model=cfg.model_directory,
            tokenizer_directory=cfg.tokenizer_directory,
            state=state,
            overwrite=True,
        )
    else:
        save_hf_folder(
            model,
            folder,
            tokenizer_directory=cfg.tokenizer_directory,
            base=cfg.model_directory,
            state=state,
            overwrite=True,
        )
