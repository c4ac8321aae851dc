"""A checkpoint with a larger vocabulary than it came with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from attrs import evolve
from torch import Tensor

from torchtune.formats._source import Checkpoint
from torchtune.formats.hf._weights import expected_shapes, hf_name
from torchtune.modules import Decoder
from torchtune.tokenizers import SpecialIds, add_special_tokens


def with_vocabulary(
    checkpoint: Checkpoint, tokens: Sequence[str] = (), vocab_size: int | None = None
) -> Checkpoint:
    """Add special tokens to a checkpoint's tokenizer, and rows for them to its embedding table and output head.

    A new row is the mean of the rows that there are, with which a new token is about as likely as an average one
    (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"). Rows of the table that its
    tokenizer did not use stay as they are, and are used first.

    Args:
        checkpoint: With a tokenizer, if tokens are added.
        tokens: Special tokens; those that the tokenizer has already are left out.
        vocab_size: Rows of the new table. None: as many as it has, or more if the tokenizer has more ids.

    Raises:
        FileNotFoundError: tokens are added, and there is no tokenizer.
        ValueError: the tokenizer takes no further tokens, or `vocab_size` is less than the table has.
    """
    size = checkpoint.model.architecture.vocab_size
    if tokens:
        n_ids = _count_ids(checkpoint, tokens)
        checkpoint = evolve(checkpoint, write_tokenizer=_writer(checkpoint, tokens))
        size = max(size, n_ids)
    if vocab_size is not None and vocab_size < size:
        owner = "the tokenizer has that many ids" if tokens else "embeddings are not shortened"
        raise ValueError(
            f"vocab_size (--vocab-size) is {vocab_size}, and has to be {size} or more, as {owner}"
        )
    return _resized(checkpoint, vocab_size or size)


def _count_ids(checkpoint: Checkpoint, tokens: Sequence[str]) -> int:
    """Return how many ids the tokenizer has with further tokens."""
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
    """Lengthen the embedding table and the output head of a checkpoint."""
    architecture, weights = checkpoint.model.architecture, checkpoint.weights
    n_new = vocab_size - architecture.vocab_size
    if n_new == 0:
        return checkpoint
    with torch.device("meta"):
        model = Decoder(architecture.evolve(vocab_size=vocab_size))
    long = {hf_name(name, architecture.family) for name in ("embed_tokens.weight", "lm_head.weight")}
    shapes = expected_shapes(model)

    def read(name: str) -> Tensor:
        tensor = weights.read(name)
        if name not in long:
            return tensor
        mean = tensor.mean(dim=0, keepdim=True, dtype=torch.float32).to(tensor.dtype)  # [1, d]
        return torch.cat([tensor, mean.expand(n_new, -1)])

    changed = {name: shapes[name] for name in long & shapes.keys()}
    return evolve(
        checkpoint, model=model, weights=evolve(weights, shapes={**weights.shapes, **changed}, read=read)
    )
