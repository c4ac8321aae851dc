"""The config section for reading rows and building batches."""

from typing import Annotated, Any, Literal

from attrs import define, field

from torchtune.config import FieldError, LocalPath, MayChange, above, at_least
from torchtune.data import Batches, ItemT, Rows, Tokenizer, use_cache
from torchtune.distributed import World
from torchtune.modules import Decoder, hardware_of
from torchtune.runs import RunFolder


@define(kw_only=True)
class Packing:
    """Combine multiple examples into packs, which leaves almost no padding; examples do not attend to each other."""

    length: int = field(default=2048, validator=above(1))
    """Length of a pack (tokens); longer examples are truncated on the right."""
    fit: Literal["best", "first"] = "best"
    """Packing strategy. best: longest examples first, each into the fullest pack with room for it; first: in order."""
    window: int = field(default=1024, validator=above(0))
    """Number of examples that are read at a time and distributed over packs (packing window); a larger window leaves
    less padding but uses more memory."""
    share_prefixes: bool = True
    """Compute a prefix that all examples of a pack share, such as a system message, only once. Losses and gradients do
    not change, except that the examples then share the dropout masks of the prefix."""


def _check_not_packed(section: "Loading", _: object, value: bool) -> None:
    if value and section.packing is not None:
        message = (
            "this setting has no effect with packing, because all packs have the same length; set only one"
        )
        raise FieldError(message, "group_by_length", "packing")


def has_fixed_widths(world: World) -> bool:
    """Return whether batches are padded to a few widths, because an accelerator is slow for each new shape."""
    return not hardware_of(world.device).is_cpu


@define(kw_only=True)
class Loading:
    """Reading, encoding and batching of rows."""

    packing: Packing | None = None
    """Pack multiple examples into each batch row; null: one example per row, padded to the longest in the batch."""
    group_by_length: bool = field(default=False, validator=_check_not_packed)
    """Batch unpacked examples of similar length, which reduces padding but makes the order less random."""
    workers: Annotated[int, MayChange()] = field(default=1, validator=at_least(0))
    """Number of processes on each rank that encode rows in advance; 0: encode rows when they are needed."""
    token_cache: Annotated[LocalPath | None, MayChange()] = None
    """Folder in which to cache encoded rows; multiple runs can share it. Null: no cache."""

    def batches(  # noqa: PLR0913 - batches depend on all of them.
        self,
        dataset: Rows[ItemT],
        tokenizer: Tokenizer,
        model: Decoder,
        world: World,
        *,
        batch_size: int,
        shuffle: bool = True,
        output_dir: str | None = None,
        logs: bool = True,
    ) -> Batches[ItemT]:
        """Build the batches of this rank.

        Args:
            dataset: The training rows, which must have a length.
            tokenizer: The tokenizer, for its padding id.
            model: The model, which limits the length of sequences; it may be on the meta device.
            world: The ranks of this run.
            batch_size: Number of rows per micro-batch on each rank.
            shuffle: Whether to shuffle the rows in every epoch.
            output_dir: The run's folder; its `run.json` records the numbers of truncated and skipped rows. None: they
                are not recorded.
            logs: Whether to log the rows that were truncated or skipped.

        Raises:
            OSError: The token cache's folder cannot be created.
            ValueError: The dataset is empty.
        """
        packing = self.packing or Packing()

        def record(totals: dict[str, Any]) -> None:
            RunFolder(output_dir or "").update_record({"data": totals})

        if self.token_cache is not None:
            use_cache(dataset, self.token_cache)
        return Batches(
            dataset,
            batch_size,
            shuffle=shuffle,
            seed=world.seed,
            pad_id=tokenizer.pad_id,
            rank=world.data_rank,
            size=world.data_size,
            longest=model.architecture.max_seq_len,
            packed_length=None if self.packing is None else packing.length,
            fit=packing.fit,
            share_prefixes=self.packing is not None and packing.share_prefixes,
            window=packing.window,
            group_by_length=self.group_by_length,
            fixed_widths=has_fixed_widths(world),
            workers=self.workers,
            record=record if world.is_main and output_dir is not None else None,
            logs=logs,
        )
