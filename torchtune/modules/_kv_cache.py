"""Key-value caches for generation."""

import torch.nn.functional as F
from attrs import define
from torch import Tensor

FIRST_SLOTS = 256
"""Initial size of a growing cache, in tokens; a smaller initial size would only lead to more copies."""


@define(eq=False)
class LayerCache:
    """The cache of one layer. Slot p contains the key and value of the token at position p.

    Its tensors are allocated by the first update, with the dtype and device of the layer.
    """

    max_seq_len: int
    """Maximum number of slots, in tokens."""
    grows: bool = False
    """Whether the number of slots doubles as needed; otherwise, the first update allocates all of them."""
    length: int = 0
    """Number of slots that may be in use: the length of the longest sequence in the batch."""
    _keys: Tensor | None = None
    _values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens, and return all keys and values up to the longest sequence.

        Args:
            keys: `[b, kv_heads, s, head_dim]`, keys of the new tokens.
            values: `[b, kv_heads, s, head_dim]`, values of the new tokens.
            positions: `[b or 1, s]`, slots of the new tokens, each below `length + s`.

        Returns:
            Keys and values `[b, kv_heads, length, head_dim]`, with the new length. Slots beyond the end of a shorter
            sequence contain no valid values and must be masked.
        """
        self.length += keys.shape[2]
        self._keys = self._with_room(self._keys, keys)
        self._values = self._with_room(self._values, values)
        slots = positions[:, None, :, None].expand_as(keys)
        self._keys.scatter_(2, slots, keys)
        self._values.scatter_(2, slots, values)
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def keep(self, rows: Tensor, length: int) -> None:
        """Keep some of the sequences; the arguments are as for `KVCache.keep`."""
        self.length = length
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[rows], self._values[rows]

    def _with_room(self, stored: Tensor | None, new: Tensor) -> Tensor:
        """Return `stored`, `[b, kv_heads, slots, head_dim]`, extended to at least `length` slots."""
        num_slots = self.max_seq_len
        if self.grows:
            num_slots = min(num_slots, max(FIRST_SLOTS, 1 << (self.length - 1).bit_length()))
        if stored is None:
            return new.new_zeros(*new.shape[:2], num_slots, new.shape[3])
        # Zeros rather than `empty`: masked slots are multiplied by 0, and NaN times 0 is NaN.
        return (
            F.pad(stored, (0, 0, 0, num_slots - stored.shape[2])) if stored.shape[2] < num_slots else stored
        )


class KVCache:
    """The caches of all layers of a model, for one batch of sequences.

    Sequences may differ in length: pad prompts on the right, pass each token's position to the model, and continue at
    each sequence's next position. Slots of padding are masked until they are overwritten.

    Args:
        num_layers: Number of decoder layers.
        max_seq_len: Maximum length of a sequence, prompt and answer together, in tokens.
        grows: Whether the number of slots doubles as needed, up to `max_seq_len`; otherwise, the first update allocates
            all of them, and nothing is ever copied.
    """

    def __init__(self, num_layers: int, max_seq_len: int, *, grows: bool = False) -> None:
        self.max_seq_len = max_seq_len
        self.layers = [LayerCache(max_seq_len, grows) for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Number of tokens in the longest sequence so far."""
        return self.layers[0].length

    def keep(self, rows: Tensor, length: int) -> None:
        """Keep some of the sequences, so that finished sequences no longer use compute or memory.

        Args:
            rows: `[n]`, the indices of the sequences to keep, in their new order.
            length: Number of tokens in the longest sequence that is kept.
        """
        for layer in self.layers:
            layer.keep(rows, length)
