"""Extend the vocabulary of a checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from attrs import evolve
from torch import Tensor

from torchtune.formats._checkpoint import Checkpoint
from torchtune.formats.hf._weights import expected_shapes, hf_name
from torchtune.modules import Decoder
from torchtune.tokenizers import SpecialIds, add_special_tokens


def with_vocabulary(
    checkpoint: Checkpoint, tokens: Sequence[str] = (), vocab_size: int | None = None
) -> Checkpoint:
    """Add special tokens to a checkpoint's tokenizer, and rows for them to its embedding table and output head.

    A new row is the mean of the existing rows, so that a new token is about as likely as an average token (Hewitt 2021,
    "Initializing New Word Embeddings for Pretrained Language Models"). Existing rows that the tokenizer does not use
    are assigned first, and keep their values.

    Args:
        checkpoint: The checkpoint; it needs a tokenizer if tokens are added.
        tokens: Special tokens; tokens that the tokenizer already has are ignored.
        vocab_size: Number of rows of the new table. None: the current number, or more if the tokenizer has more ids.

    Raises:
        FileNotFoundError: Tokens are added, but the checkpoint has no tokenizer.
        ValueError: Tokens cannot be added to the tokenizer, or `vocab_size` is less than the current number of rows.
    """
    size = checkpoint.model.architecture.vocab_size
    if tokens:
        n_ids = _count_ids(checkpoint, tokens)
        checkpoint = evolve(checkpoint, write_tokenizer=_writer(checkpoint, tokens))
        size = max(size, n_ids)
    if vocab_size is not None and vocab_size < size:
        reason = "the tokenizer has that many ids" if tokens else "embeddings cannot be shortened"
        raise ValueError(
            f"vocab_size (--vocab-size) is {vocab_size}; expected at least {size}, since {reason}"
        )
    return _resized(checkpoint, vocab_size or size)


def _count_ids(checkpoint: Checkpoint, tokens: Sequence[str]) -> int:
    """Return the number of ids that the tokenizer has with the added tokens."""
    with TemporaryDirectory() as folder:
        checkpoint.write_tokenizer(Path(folder))
        return add_special_tokens(Path(folder), tokens)


def _writer(checkpoint: Checkpoint, tokens: Sequence[str]) -> Callable[[Path], SpecialIds]:
    def write(folder: Path) -> SpecialIds:
        ids = checkpoint.write_tokenizer(folder)
        add_special_tokens(folder, tokens)
        return ids

    return write


def _resized(checkpoint: Checkpoint, vocab_size: int) -> Checkpoint:
    """Add rows to the embedding table and the output head of a checkpoint."""
    architecture, weights = checkpoint.model.architecture, checkpoint.weights
    n_new = vocab_size - architecture.vocab_size
    if n_new == 0:
        return checkpoint
    with torch.device("meta"):
        model = Decoder(architecture.evolve(vocab_size=vocab_size))
    resized_names = {hf_name(name, architecture.family) for name in ("embed_tokens.weight", "lm_head.weight")}
    shapes = expected_shapes(model)

    def read(name: str) -> Tensor:
        tensor = weights.read(name)
        if name not in resized_names:
            return tensor
        mean = tensor.mean(dim=0, keepdim=True, dtype=torch.float32).to(tensor.dtype)  # [1, d]
        return torch.cat([tensor, mean.expand(n_new, -1)])

    new_shapes = {name: shapes[name] for name in resized_names & shapes.keys()}
    return evolve(
        checkpoint, model=model, weights=evolve(weights, shapes={**weights.shapes, **new_shapes}, read=read)
    )
