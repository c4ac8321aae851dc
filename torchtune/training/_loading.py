"""The section of a config for reading rows and making batches."""

from typing import Annotated, Any, Literal

from attrs import define, field

from torchtune.config import FieldError, LocalPath, MayChange, above, at_least
from torchtune.data import Batches, ItemT, Rows, Tokenizer, use_cache
from torchtune.distributed import World
from torchtune.modules import Decoder
from torchtune.runs import RunFolder


@define(kw_only=True)
class Packing:
    """Packs of several examples, which do not attend to each other; almost no position is padding."""

    length: int = field(default=2048, validator=above(1))
    """Positions of a pack; a longer example is cut at its end."""
    fit: Literal["best", "first"] = "best"
    """How packs are filled: "best": the longest example goes into the fullest pack that has room; "first": in order."""
    window: int = field(default=1024, validator=above(0))
    """Examples that are packed together; more fill packs better, and take more memory."""
    share_prefixes: bool = True
    """Compute what all examples of a pack begin with once, such as the prompt's first words or a system message; values
    and gradients are those of separate examples. With dropout, they draw its masks together."""


def _not_with_packing(section: "Loading", _: object, value: bool) -> None:
    if value and section.packing is not None:
        message = "without effect on packed examples, as all packs are of one length; leave one out"
        raise FieldError(message, "group_by_length", "packing")


@define(kw_only=True)
class Loading:
    """How rows are read, encoded and put into batches."""

    packing: Packing | None = None
    """Packs of several examples; null: a row of a batch holds one, padded to the longest of its batch."""
    group_by_length: bool = field(default=False, validator=_not_with_packing)
    """Bring unpacked examples of similar length together; saves padding, and makes the order less random."""
    workers: Annotated[int, MayChange()] = field(default=1, validator=at_least(0))
    """Processes of each rank that encode rows ahead; 0: each is encoded when it is needed."""
    token_cache: Annotated[LocalPath | None, MayChange()] = None
    """Folder of encoded rows, which any number of runs share; null: rows are encoded whenever they are read."""

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
        """Make the batches of this rank.

        Args:
            dataset: The rows; it has a length.
            tokenizer: Its padding id is used.
            model: Limits the length of sequences; it may be on the meta device.
            world: The ranks of this run.
            batch_size: Rows of a batch on each rank.
            shuffle: Read the rows in a new order every epoch.
            output_dir: The run's folder, whose `run.json` counts rows that were cut or skipped; None: only logged.
            logs: Log which rows were cut or skipped.

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
            workers=self.workers,
            record=record if world.is_main and output_dir is not None else None,
            logs=logs,
        )
