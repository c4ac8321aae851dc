"""Keys and values of the tokens that a model has already seen."""

from attrs import define
from torch import Tensor


@define(eq=False)
class LayerCache:
    """The cache of one layer. The key and value of the token at position p stand in slot p.

    Its tensors are made at the first update, with that layer's dtype and device.
    """

    max_seq_len: int
    """Number of slots, in tokens."""
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
        if self._keys is None or self._values is None:
            b, h, _, d = keys.shape
            self._keys = keys.new_zeros(b, h, self.max_seq_len, d)
            self._values = values.new_zeros(b, h, self.max_seq_len, d)
        self.length += keys.shape[2]
        slots = positions[:, None, :, None].expand_as(keys)
        self._keys.scatter_(2, slots, keys)
        self._values.scatter_(2, slots, values)
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]


class KVCache:
    """The caches of all layers of a model, for one batch of sequences.

    Rows may be of unequal length: pad prompts on the right, give the model each token's position, and
    go on at each row's own next position. What padding left behind is masked until it is overwritten.

    Args:
        num_layers: Decoder layers of the model.
        max_seq_len: Longest sequence, prompt and answer, in tokens.
    """

    def __init__(self, num_layers: int, max_seq_len: int) -> None:
        self.max_seq_len = max_seq_len
        self.layers = [LayerCache(max_seq_len) for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Tokens of the longest sequence so far."""
        return self.layers[0].length
