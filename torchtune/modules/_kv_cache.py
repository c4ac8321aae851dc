"""Keys and values of the tokens that a model has already seen."""

import torch.nn.functional as F
from attrs import define
from torch import Tensor

FIRST_SLOTS = 256
"""Least size of a cache that grows, in tokens: the first few hundred are not worth a copy."""


@define(eq=False)
class LayerCache:
    """The cache of one layer. The key and value of the token at position p stand in slot p.

    Its tensors are made at the first update, with that layer's dtype and device.
    """

    max_seq_len: int
    """Most slots, in tokens."""
    grows: bool = False
    """Whether slots double as they are needed; otherwise all are there from the first update on."""
    length: int = 0
    """Slots that may be in use: no sequence of the batch is longer."""
    _keys: Tensor | None = None
    _values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Store what is new and return everything up to the longest sequence.

        Args:
            keys: `[b, kv_heads, s, head_dim]`, of the new tokens.
            values: `[b, kv_heads, s, head_dim]`.
            positions: `[b or 1, s]`, the slots they go to; each below `length + s`.

        Returns:
            Keys and values `[b, kv_heads, length, head_dim]`, with the new length. Slots that a shorter
            sequence has not reached hold what was never written or will be overwritten: mask them.
        """
        self.length += keys.shape[2]
        self._keys = self._with_room(self._keys, keys)
        self._values = self._with_room(self._values, values)
        slots = positions[:, None, :, None].expand_as(keys)
        self._keys.scatter_(2, slots, keys)
        self._values.scatter_(2, slots, values)
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def keep(self, rows: Tensor, length: int) -> None:
        """Go on with some of the sequences; the arguments are those of `KVCache.keep`."""
        self.length = length
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[rows], self._values[rows]

    def _with_room(self, stored: Tensor | None, new: Tensor) -> Tensor:
        """Return what is stored, `[b, kv_heads, slots, head_dim]`, with slots for `length` tokens at least."""
        wanted = self.max_seq_len
        if self.grows:
            wanted = min(wanted, max(FIRST_SLOTS, 1 << (self.length - 1).bit_length()))
        if stored is None:
            return new.new_zeros(*new.shape[:2], wanted, new.shape[3])
        # Zeros and not `empty`: a masked slot is multiplied by 0, and NaN times 0 is NaN.
        return F.pad(stored, (0, 0, 0, wanted - stored.shape[2])) if stored.shape[2] < wanted else stored


class KVCache:
    """The caches of all layers of a model, for one batch of sequences.

    Rows may be of unequal length: pad prompts on the right, give the model each token's position, and
    go on at each row's own next position. What padding left behind is masked until it is overwritten.

    Args:
        num_layers: Decoder layers of the model.
        max_seq_len: Longest sequence, prompt and answer, in tokens.
        grows: Whether memory follows the length, doubling up to `max_seq_len`; otherwise all of it is taken
            at the first update, and nothing is ever copied.
    """

    def __init__(self, num_layers: int, max_seq_len: int, *, grows: bool = False) -> None:
        self.max_seq_len = max_seq_len
        self.layers = [LayerCache(max_seq_len, grows) for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Tokens of the longest sequence so far."""
        return self.layers[0].length

    def keep(self, rows: Tensor, length: int) -> None:
        """Go on with some of the sequences alone, so that those that have ended cost nothing.

        Args:
            rows: `[n]`, the numbers of those that stay, in the order they shall have.
            length: Tokens of the longest that stays.
        """
        for layer in self.layers:
            layer.keep(rows, length)
