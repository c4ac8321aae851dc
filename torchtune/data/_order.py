"""Seeded permutations, the orders in which epochs read rows."""

import hashlib

import torch

_MAX_LISTED = 2**16
"""Largest permutation that is stored as a list; elements of a larger one are computed on access."""
_MASK = 2**64 - 1


class Order:
    """A permutation of n rows, determined by a seed and an epoch.

    Memory does not grow with n: above 65,536 rows, an index is mapped by a Feistel network over the next power of two
    (Luby and Rackoff 1988), repeatedly until the result is below n.

    Args:
        n: Number of rows.
        seed: Seed, combined with `epoch`. None: the identity.
        epoch: Index of the epoch, or any other value that distinguishes permutations of one seed.
    """

    def __init__(self, n: int, seed: int | None, epoch: int | str) -> None:
        self._n = n
        self._shuffled = seed is not None
        # The hash makes the second epoch of seed 1 differ from the first epoch of seed 2.
        key = f"{seed}/{epoch}".encode()
        self._permutation: list[int] | None = None
        if self._shuffled and n <= _MAX_LISTED:
            digest = hashlib.sha256(key).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            self._permutation = torch.randperm(n, generator=generator).tolist()
        digest = hashlib.sha512(key).digest()
        self._keys = [int.from_bytes(digest[i : i + 8], "big") for i in range(0, 64, 8)]
        self._low = (n - 1).bit_length() // 2
        self._high = (n - 1).bit_length() - self._low

    def __getitem__(self, index: int, /) -> int:
        """Return the row at an index of the order."""
        if not self._shuffled:
            return index
        if self._permutation is not None:
            return self._permutation[index]
        row = self._mixed(index)
        while row >= self._n:
            row = self._mixed(row)
        return row

    def _mixed(self, index: int) -> int:
        """Apply the Feistel network, a permutation of all integers with its bit width."""
        low_mask, high_mask = (1 << self._low) - 1, (1 << self._high) - 1
        high, low = index >> self._low, index & low_mask
        for i in range(0, 8, 2):
            high ^= _hash(low ^ self._keys[i]) & high_mask
            low ^= _hash(high ^ self._keys[i + 1]) & low_mask
        return (high << self._low) | low


def _hash(value: int) -> int:
    """Hash a 64-bit integer with the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
