"""Batch widths on accelerators."""

from attrs import frozen

from torchtune.data._batch import Batch

_NARROWEST = 128
"""The narrowest batch rows (positions): the block size of attention kernels."""


@frozen
class FixedWidths:
    """The few batch widths of a run on an accelerator, which compiles kernels and allocates memory by shape.

    All packs have the maximum length. The width of other rows is a power of two, from 128 up, or the maximum length of
    a sequence. Only rows with several sequences, such as pairs, are wider than a sequence can be.
    """

    packed_length: int | None = None
    """Length of a pack (positions). None: rows are not packed."""
    longest: int | None = None
    """Maximum length of a sequence (positions). None: no limit."""

    def padded_width(self, width: int) -> int:
        """Return the width to which batch rows of a width are padded (positions)."""
        if self.packed_length is not None:
            return self.packed_length
        power = max(_NARROWEST, 1 << (width - 1).bit_length())
        return power if self.longest is None or width > self.longest else min(power, self.longest)

    def pad(self, batch: Batch, pad_id: int) -> Batch:
        """Pad a batch; packs always get spans, so that packs of a single sequence need no other kernels."""
        width = self.padded_width(batch.tokens.shape[1])
        return batch.padded(width, pad_id, with_spans=self.packed_length is not None)
