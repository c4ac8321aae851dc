"""The loss that never stores all logits, in each precision."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from torchtune.modules import LinearCrossEntropy, token_log_probs
from torchtune.placement import DTYPES
from torchtune.selftest._check import Check, Difference, compare
from torchtune.selftest._inputs import random_inputs

POSITIONS, WIDTH, VOCABULARY = 70, 48, 1000
IGNORED = -100


def loss_checks(precisions: Iterable[str]) -> Iterator[Check]:
    """Yield checks of the cross-entropy and of log-probabilities, in chunks that do not divide the positions."""
    for precision in precisions:
        for softcap in (None, 30.0):
            name = precision if softcap is None else f"{precision}, soft cap"
            yield Check("loss", f"cross-entropy, {name}", partial(_loss, DTYPES[precision], softcap))
        yield Check("loss", f"log-probabilities, {precision}", partial(_log_probs, DTYPES[precision]))


def _inputs() -> tuple[dict[str, Tensor], Tensor]:
    inputs = random_inputs({"hidden": (POSITIONS, WIDTH), "weight": (VOCABULARY, WIDTH)}, 0.5)
    labels = torch.arange(POSITIONS) * 37 % VOCABULARY
    return inputs, torch.where(torch.arange(POSITIONS) % 5 == 2, IGNORED, labels)


def _loss(dtype: torch.dtype, softcap: float | None, device: torch.device) -> list[Difference]:
    inputs, labels = _inputs()
    module = LinearCrossEntropy(reduction="sum", chunk_size=32, ignore_index=IGNORED)

    def function(x: Mapping[str, Tensor]) -> Tensor:
        total: Tensor = module(x["hidden"], x["weight"], labels.to(device), softcap)
        return total

    def plain(x: Mapping[str, Tensor]) -> Tensor:
        logits = x["hidden"] @ x["weight"].T
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return -_selected(logits, labels).sum()

    return compare(function, plain, inputs, dtype, device)


def _log_probs(dtype: torch.dtype, device: torch.device) -> list[Difference]:
    inputs, labels = _inputs()
    labels = labels.clamp(min=0)

    def function(x: Mapping[str, Tensor]) -> Tensor:
        return token_log_probs(x["hidden"], x["weight"], labels.to(device))

    return compare(function, lambda x: _selected(x["hidden"] @ x["weight"].T, labels), inputs, dtype, device)


def _selected(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probabilities of the labels that are not ignored, by the definition of the softmax."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = (labels != IGNORED).nonzero().flatten()
    logits = logits - logits.amax(-1, keepdim=True)
    return logits[rows, labels[rows]] - logits.exp().sum(-1).log()[rows]
