"""What a config says, built: its batches, its steps, its model where it is to be trained."""

from typing import cast

from torch.utils.data import Dataset

from torchtune.data import Batches, Encoded, Examples, Tokenizer
from torchtune.modules import Decoder
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._placement import place
from torchtune.training._schedules import steps_in
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
