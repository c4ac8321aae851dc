"""Tolerances for comparing two computations, derived from the precision and the number of roundings.

A rounding changes a value by at most u = eps / 2, relative to the value. A sum of n products, in any order, with or
without fused multiply-adds, is off by at most n u, relative to the sum of the products' magnitudes (Higham, Accuracy
and Stability of Numerical Algorithms, 2nd edition, section 3.1). If its roundings are independent, it is off by more
than lambda sqrt(n) u with a probability of at most 2 exp(-lambda^2 / 2) (Higham and Mary, A New Approach to
Probabilistic Rounding Error Analysis, doi 10.1137/18M1226312). Processors differ in the order of sums, in fused
operations and in exp and tanh. These differences are within the bounds and are not defects.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from torchtune.modules import Architecture

Tensors = Tensor | Sequence["Tensors"] | Mapping[str, "Tensors"]
"""A tensor, or a nested structure of tensors."""

FLOAT64 = 2.0**-38
"""The largest difference, relative to the largest value, that rounding causes between float64 results (3.6e-12).

It is the geometric mean of float64's eps, 2^-52, and float32's u, 2^-24. The tests' models have at most a few thousand
consecutive roundings; the bound of 2^14 eps leaves room for their amplification by the layers. A single value that
passes through float32 has an error of up to 2^14 times the bound.
"""


def bound(dtype: torch.dtype, n_operations: int, scale: float = 1.0) -> float:
    """Return the largest difference between an element and its value computed in a different order or in float64.

    Two results with errors of at most n u differ by at most n eps, which is the bound for up to 16 roundings. For
    more, it is 4 sqrt(n) eps: lambda is 4 for each of two rounded results, or 8 for one rounded and one exact result.

    Args:
        dtype: The precision of the computation.
        n_operations: Number of consecutive roundings: the total length of the sums that a value goes through.
        scale: The magnitude of the summands.
    """
    return float(min(n_operations, 4 * n_operations**0.5) * torch.finfo(dtype).eps * scale)


def rms_error(dtype: torch.dtype, n_operations: int) -> float:
    """Return the expected relative error, in norm, of a tensor with many elements, without amplification.

    The root mean square error of one rounding is u / sqrt(3), and the error of n roundings is sqrt(n) times as large.

    Args:
        dtype: The precision that values are rounded to.
        n_operations: Number of consecutive roundings.
    """
    return float((n_operations / 12) ** 0.5) * torch.finfo(dtype).eps


def norm_bound(dtype: torch.dtype, n_operations: int) -> float:
    """Return the largest relative error in norm: 3.5 times `rms_error`, since layers amplify earlier roundings."""
    return 3.5 * rms_error(dtype, n_operations)


def distance(result: Tensors, exact: Tensors) -> float:
    """Return the norm of the difference over the elements of all tensors, relative to the norm of `exact`."""
    columns = zip(*_pairs(result, exact), strict=True)
    values, exact_values = (
        torch.cat([t.detach().double().flatten() for t in tensors]) for tensors in columns
    )
    return float((values - exact_values).norm() / exact_values.norm())


def assert_near(result: Tensors, expected: Tensors, allowed: float) -> None:
    """Check that elements differ by at most `allowed`, relative to the expected tensor's largest element.

    The error of a sum is bounded by the magnitude of its summands, which is about the magnitude of the largest
    element: an element that is small because its summands cancel has the same error as the others.
    """
    for tensor, exact in _pairs(result, expected):
        largest = float(exact.detach().abs().max()) if exact.numel() else 0.0
        torch.testing.assert_close(tensor.double(), exact.double(), rtol=0, atol=allowed * largest)


def assert_as_near(
    result: Tensors, plain: Tensors, exact: Tensors, allowed: float, factor: float = 4.0
) -> None:
    """Check that a result's error is similar to the error of the plain computation on the same processor.

    Both have roundings of the same size, amplified by the same layers, in a different order. Their errors are
    therefore two samples of one distribution. In float32, a few sensitive elements can dominate: among 90 pairs of
    errors, measured with different rows and kernels, the largest ratio was 3.6, so 4 is allowed. In bfloat16, where
    every element contributes, the largest ratio was 1.6. A single rounding to bfloat16 instead of float32 has an error
    2^16 times as large.

    Args:
        result: The tested result, computed in low precision.
        plain: The result of plain operations in the same precision.
        exact: The result in float64.
        allowed: Relative error in norm that is added to the bound, in case the plain computation happens to round well.
        factor: The largest ratio of the two errors.
    """
    error, plain_error = distance(result, exact), distance(plain, exact)
    assert error <= factor * plain_error + allowed, (error, plain_error)


def roundings(architecture: Architecture, length: int) -> int:
    """Count the consecutive roundings of a forward pass: the total length of the sums from embedding to loss.

    With the backward pass, whose gradients are sums over tokens, there are three times as many.

    Args:
        architecture: The model's architecture.
        length: Number of tokens in the longest document.
    """
    a = SimpleNamespace(**architecture.flat())
    # Norm, queries, scores, their softmax, values, outputs; norm, gate, outputs.
    attention = 2 * a.embed_dim + a.head_dim + 2 * length + a.num_heads * a.head_dim
    feed_forward = 2 * a.embed_dim + a.ffn_dim
    return int(a.num_layers * (attention + feed_forward) + 2 * a.embed_dim + a.vocab_size)


def _pairs(result: Tensors, expected: Tensors) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield corresponding tensors of two structures, and check that the structures match."""
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
        for item, expected_item in zip(result, expected, strict=True):
            yield from _pairs(item, expected_item)
