"""How far two computations of one value may differ, derived from the precision and the number of roundings.

A rounding changes a value by at most u = eps / 2 of it. A sum of n products, in any order, with or without fused
multiply-adds, is off by at most n u, relative to the sum of the products' magnitudes (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd edition, section 3.1). If its roundings are independent, it is off by more than
lambda sqrt(n) u with a probability of at most 2 exp(-lambda^2 / 2) (Higham and Mary, A New Approach to Probabilistic
Rounding Error Analysis, doi 10.1137/18M1226312). Processors differ in the order of their sums, in what they fuse and
in how they compute exp and tanh: all of that is within these bounds, and none of it is a defect.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from torchtune.modules import Architecture

Tensors = Tensor | Sequence["Tensors"] | Mapping[str, "Tensors"]
"""A tensor, or some of them."""

FLOAT64 = 2.0**-38
"""What float64 computations that are equal but for rounding may differ by, relative to the largest value (3.6e-12).

It is the geometric mean of float64's eps, 2^-52, and of float32's u, 2^-24. The tests' models have at most a few
thousand roundings in a row, which leaves room below for what their layers amplify (2^14 eps in all); and one
value that went through float32 on its way is off by up to 2^14 times the bound.
"""


def bound(dtype: torch.dtype, n_operations: int, scale: float = 1.0) -> float:
    """Return how far any element may be from its value in another order, or in float64.

    Two results that are off by n u each differ by n eps, whatever happens: that is the bound up to 16 roundings.
    Beyond, it is 4 sqrt(n) eps: lambda is 4 for each of two rounded results, or 8 for one against an exact result.

    Args:
        dtype: The precision that is computed in.
        n_operations: Roundings in a row: the lengths of the sums that a value goes through, added up.
        scale: The magnitude of what is summed.
    """
    return float(min(n_operations, 4 * n_operations**0.5) * torch.finfo(dtype).eps * scale)


def rms_error(dtype: torch.dtype, n_operations: int) -> float:
    """Return how far a tensor of many elements is from the exact one, by their norms, if nothing is amplified.

    A rounding is off by u / sqrt(3) in the root mean square, n of them by sqrt(n) times that.

    Args:
        dtype: The precision that values are rounded to.
        n_operations: Roundings in a row.
    """
    return float((n_operations / 12) ** 0.5) * torch.finfo(dtype).eps


def norm_bound(dtype: torch.dtype, n_operations: int) -> float:
    """Return how far it may be: 3.5 times as far, for layers amplify the roundings of those before them."""
    return 3.5 * rms_error(dtype, n_operations)


def distance(result: Tensors, exact: Tensors) -> float:
    """Return the norm of the difference of all elements together, relative to the norm of `exact`."""
    ours, theirs = zip(*_pairs(result, exact), strict=True)
    whole, exact_whole = (torch.cat([t.detach().double().flatten() for t in part]) for part in (ours, theirs))
    return float((whole - exact_whole).norm() / exact_whole.norm())


def assert_near(result: Tensors, expected: Tensors, allowed: float) -> None:
    """Compare each tensor's elements; they may differ by `allowed`, relative to the expected tensor's largest element.

    What bounds the error of a sum is the magnitude of its summands, which is about that of the largest element; an
    element that is small because its summands cancel is as far off as the others.
    """
    for tensor, exact in _pairs(result, expected):
        largest = float(exact.detach().abs().max()) if exact.numel() else 0.0
        torch.testing.assert_close(tensor.double(), exact.double(), rtol=0, atol=allowed * largest)


def assert_as_near(
    result: Tensors, plain: Tensors, exact: Tensors, allowed: float, factor: float = 4.0
) -> None:
    """Check that a result is about as near to the exact one as the plain computation's is, on the same processor.

    Both are off by roundings of the same sizes, amplified by the same layers, in another order: their distances are
    two draws from one distribution. A few sensitive elements may decide a float32 distance: of 90 pairs, on other rows
    and with other kernels, one was 3.6 times the other, and 4 is allowed. Distances in bfloat16, whose roundings are so
    much larger that all elements have a share in them, were at most 1.6 times each other. A single rounding to bfloat16
    where float32 was promised is 2^16 times too large.

    Args:
        result: What is tested, computed in a narrow precision.
        plain: The same by plain operations in that precision.
        exact: The same in float64.
        allowed: What is added, by norms, for a plain computation that happens to round well.
        factor: How many times as far from the exact result as the plain one it may be.
    """
    error, plain_error = distance(result, exact), distance(plain, exact)
    assert error <= factor * plain_error + allowed, (error, plain_error)


def roundings(architecture: Architecture, length: int) -> int:
    """Count the roundings in a row of a forward pass: the lengths of the sums from the embedding to the loss.

    A backward pass goes through as many again, and its gradients are sums over tokens: three times as many together.

    Args:
        architecture: Of the model.
        length: Tokens of the longest document.
    """
    a = SimpleNamespace(**architecture.flat())
    # Norm, queries, scores, their softmax, values, outputs; norm, gate, outputs.
    attention = 2 * a.embed_dim + a.head_dim + 2 * length + a.num_heads * a.head_dim
    feed_forward = 2 * a.embed_dim + a.ffn_dim
    return int(a.num_layers * (attention + feed_forward) + 2 * a.embed_dim + a.vocab_size)


def _pairs(result: Tensors, expected: Tensors) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair the tensors of two structures, which must be alike."""
    if isinstance(expected, Tensor):
        assert isinstance(result, Tensor)
        assert result.shape == expected.shape
        yield result, expected
    elif isinstance(expected, Mapping):
        assert isinstance(result, Mapping)
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            yield from _pairs(result[name], value)
    else:
        assert isinstance(result, Sequence)
        for ours, theirs in zip(result, expected, strict=True):
            yield from _pairs(ours, theirs)
