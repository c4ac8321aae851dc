"""The order in which an epoch reads its rows."""

import hashlib

import torch

_LISTED = 2**16
"""Rows up to which an order is drawn whole; beyond, each place is computed by itself."""
_MASK = 2**64 - 1


class Order:
    """A permutation of n rows, which a seed and the epoch's number fix.

    It takes hardly any memory, however many rows there are: above 65,536, a place is sent through a Feistel network
    over the next power of two (Luby and Rackoff 1988), again where it falls beyond the last row.

    Args:
        n: How many rows.
        seed: With `epoch`, what the order is drawn from. None: the rows as they come.
        epoch: The epoch's number, or what else is put in order.
    """

    def __init__(self, n: int, seed: int | None, epoch: int | str) -> None:
        self._n = n
        self._shuffled = seed is not None
        # Hashed, so that seed 1's second epoch is not seed 2's first.
        drawn = f"{seed}/{epoch}".encode()
        self._listed: list[int] | None = None
        if self._shuffled and n <= _LISTED:
            digest = hashlib.sha256(drawn).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            self._listed = torch.randperm(n, generator=generator).tolist()
        digest = hashlib.sha512(drawn).digest()
        self._keys = [int.from_bytes(digest[i : i + 8], "big") for i in range(0, 64, 8)]
        self._low = (n - 1).bit_length() // 2
        self._high = (n - 1).bit_length() - self._low

    def __getitem__(self, place: int, /) -> int:
        """Return the row that stands at a place."""
        if not self._shuffled:
            return place
        if self._listed is not None:
            return self._listed[place]
        row = self._mixed(place)
        while row >= self._n:
            row = self._mixed(row)
        return row

    def _mixed(self, number: int) -> int:
        """Send a number through the network, which is a permutation of all numbers of its bits."""
        low_mask, high_mask = (1 << self._low) - 1, (1 << self._high) - 1
        high, low = number >> self._low, number & low_mask
        for i in range(0, 8, 2):
            high ^= _hash(low ^ self._keys[i]) & high_mask
            low ^= _hash(high ^ self._keys[i + 1]) & low_mask
        return (high << self._low) | low


def _hash(number: int) -> int:
    """Scatter a number's bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
