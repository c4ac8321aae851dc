"""Build the model, datasets, schedule and validator of a config, and save the model."""

from functools import partial
from typing import Any, Literal, cast

import torch
from torch.optim import Optimizer

from torchtune.config import ConfigError, Mistake, instantiate
from torchtune.config.model import dotpath, fields, item_mismatch
from torchtune.data import Batches, Rows, SkippedRow, Tokenizer, as_items, split_off
from torchtune.distributed import World
from torchtune.formats import save_hf_folder, save_peft_adapter
from torchtune.models import check_vocabulary
from torchtune.modules import Decoder, has_adapters
from torchtune.placement import DTYPES, full_state, reshard, resolve_dtype
from torchtune.runs import RunFolder, check_model_folder
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._loading import has_fixed_widths
from torchtune.training._schedules import Schedule, build_scheduler
from torchtune.training._score import Scorer
from torchtune.training._validation import HeldOutSet
from torchtune.training._validator import Validator


def build_model(cfg: FinetuneConfig) -> tuple[Tokenizer, Decoder]:
    """Build a config's tokenizer, and its model on the meta device.

    Raises:
        InstantiationError: The tokenizer or the model rejects its arguments.
        ConfigError: `model_directory` is not a model folder.
        ValueError: The tokenizer has ids outside the model's vocabulary.
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
) -> tuple[Rows[Any], HeldOutSet | None]:
    """Open the training dataset and encode the held-out rows.

    Args:
        cfg: The run's config, of which `dataset` and `validation` are used.
        tokenizer: The tokenizer, which encodes the rows.
        model: The model, which limits the length of examples; it may be on the meta device.
        world: The ranks of this run; its seed selects the rows to hold out.

    Returns:
        The training dataset, and the held-out rows or, without validation, None.

    Raises:
        InstantiationError: A dataset rejects its arguments, or its rows cannot be read.
        ValueError: The items are not of the type that the recipe declares, no rows can be held out, no held-out row has
            a target, or a prompt is too long.
    """
    dataset = _open(cfg, cfg.dataset, "dataset", tokenizer)
    section = cfg.validation
    if section is None:
        return dataset, None
    if section.fraction is None:
        rows = _open(cfg, section.dataset, "validation.dataset", tokenizer)
    else:
        dataset, rows = split_off(dataset, section.fraction, world.seed)
    return dataset, section.encode_held_out(rows, tokenizer, model)


def _open(cfg: FinetuneConfig, component: Any, name: str, tokenizer: Tokenizer) -> Rows[Any]:
    """Build a dataset and check the type of its first item, since a dataset class need not declare its item type."""
    rows = cast("Rows[Any]", instantiate(component, tokenizer))
    config_class: type = type(cfg)
    encoded = rows[0] if len(rows) else ()
    items = () if isinstance(encoded, SkippedRow) else as_items(encoded)
    reason = item_mismatch(items[0], fields(config_class)["dataset"].type) if items else None
    if reason:
        raise ValueError(f"{name}: {dotpath(component.func)} {reason}")
    return rows


def count_steps(cfg: FinetuneConfig, batches: Batches[Any]) -> int:
    """Return the number of optimizer steps of a run, which may be an estimate (`Batches.steps_in`).

    Args:
        cfg: The run's config, with its epochs and step limits.
        batches: The run's batches.

    Raises:
        ValueError: None of the examined rows has a target.
    """
    steps = batches.steps_in(cfg.epochs, cfg.gradient_accumulation_steps)
    if cfg.max_steps is not None:
        return cfg.max_steps
    return steps if cfg.step_limit is None else min(steps, cfg.step_limit)


def build_schedule(cfg: FinetuneConfig, optimizer: Optimizer, batches: Batches[Any]) -> Schedule:
    """Build the learning rate schedule for the length of the run, which the batches and the config's limits determine.

    Raises:
        InstantiationError: The scheduler rejects its arguments.
        ValueError: The scheduler is not supported, or no row has a target.
    """
    total_steps = count_steps(cfg, batches)
    return Schedule(build_scheduler(cfg.lr_scheduler, optimizer, total_steps), total_steps)


def build_validator(  # noqa: PLR0917 - validation needs most parts of a run.
    cfg: FinetuneConfig,
    held_out: HeldOutSet | None,
    scorer: Scorer,
    tokenizer: Tokenizer,
    model: Decoder,
    world: World,
) -> Validator:
    """Build the validator, which does nothing if no rows are held out.

    Args:
        cfg: The run's config.
        held_out: The encoded held-out rows; None: no validation.
        scorer: The scorer of the training steps.
        tokenizer: The tokenizer, which pads rows and decodes answers.
        model: The model, already placed on its device.
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
        fixed_widths=has_fixed_widths(world),
    )


def save_model(cfg: FinetuneConfig, model: Decoder, world: World, name: Literal["final", "best"]) -> None:
    """Save a model in the run's folder, in Hugging Face or PEFT format; all ranks must call this.

    Adapters are saved as a PEFT folder that refers to the base model in `model_directory`; any other model is saved as
    a Hugging Face folder, in the compute precision. The tokenizer's files are copied to either folder; for an adapter,
    they may be missing.

    Args:
        cfg: The run's config.
        model: The model, already placed on its device.
        world: The ranks of this run.
        name: The folder's name within the run's folder.

    Raises:
        OSError: The folder cannot be written; an existing folder of that name is unchanged.
    """
    run = RunFolder(cfg.output_dir)
    folder = run.final if name == "final" else run.best
    if not has_adapters(model):
        reshard(model)
        save_hf_folder(
            model,
            folder,
            tokenizer_directory=cfg.tokenizer_directory,
            base=cfg.model_directory,
            dtype=DTYPES[resolve_dtype(cfg.dtype, world.device)],
            overwrite=True,
            ranks=world,
        )
        return
    state = full_state(model, world)
    if state is not None:
        save_peft_adapter(
            model,
            folder,
            base_model=cfg.model_directory,
            tokenizer_directory=cfg.tokenizer_directory,
            state=state,
            overwrite=True,
        )
