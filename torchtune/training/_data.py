"""A config's batches."""

from typing import cast

from torch.utils.data import Dataset

from torchtune.data import Batches, Encoded, Examples, Tokenizer
from torchtune.modules import Decoder
from torchtune.training._finetune_config import FinetuneConfig
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
        ValueError: The dataset is empty, or `group_by_length` stands beside `packing`.
    """
    packing = cfg.packing
    if packing is not None and cfg.group_by_length:
        raise ValueError(
            "group_by_length: without effect on packed rows, which are all of one length; leave one out"
        )
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
