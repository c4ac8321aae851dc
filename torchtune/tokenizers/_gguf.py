"""The tokenizer in a GGUF file's metadata."""

from typing import TYPE_CHECKING, Any

from torchtune.tokenizers._build import SPLITS, add_tokens, begin_with, byte_level, from_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_CONTROL, _USER_DEFINED = 3, 4
"""Token types: special tokens, and plain ones that are found before the text is split."""


def gguf_tokenizer(metadata: dict[str, Any]) -> "Backend":
    """Build the tokenizer that a GGUF file describes: byte-level BPE, or SentencePiece's BPE.

    Raises:
        ValueError: it is of another kind, or is inconsistent.
        KeyError: a part is missing.
    """
    kind, tokens = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    if len(set(tokens)) != len(tokens) or len(kinds) != len(tokens):
        raise ValueError("its tokenizer has a token twice, or a token without a type")
    backend = _pieces(metadata) if kind == "llama" else _bytes(metadata)
    is_special = {_CONTROL: True, _USER_DEFINED: False}
    of_kinds = ((token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in is_special)
    add_tokens(backend, ((token, is_special[kind]) for token, kind in of_kinds))
    if adds_bos(metadata):
        begin_with(backend, tokens[metadata["tokenizer.ggml.bos_token_id"]])
    return backend


def adds_bos(metadata: dict[str, Any]) -> bool:
    """Tell whether a model's texts begin with BOS: as the file says, or else as llama.cpp assumes."""
    is_pieces = metadata["tokenizer.ggml.model"] == "llama"
    otherwise = is_pieces or SPLITS[metadata["tokenizer.ggml.pre"]].adds_bos
    has_one = "tokenizer.ggml.bos_token_id" in metadata
    return bool(metadata.get("tokenizer.ggml.add_bos_token", otherwise) and has_one)


def _bytes(metadata: dict[str, Any]) -> "Backend":
    kind, pre = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != "gpt2" or pre not in SPLITS:
        raise ValueError(
            f"its tokenizer is of the kind {kind!r} / {pre!r}; supported are 'llama', and 'gpt2' /"
            f" {' or '.join(map(repr, SPLITS))}"
        )
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    if any(len(merge) != 2 for merge in merges):
        raise ValueError("its tokenizer has a merge that is not a pair")
    vocabulary = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", False)
    return byte_level(vocabulary, merges, SPLITS[pre], space_prefix=prefix)


def _pieces(metadata: dict[str, Any]) -> "Backend":
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    if len(scores) != len(tokens):
        raise ValueError("its tokenizer has a token without a score")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    return from_pieces(
        tokens,
        scores,
        unknown=None if unknown is None else tokens[unknown],
        space_prefix=metadata.get("tokenizer.ggml.add_space_prefix", True),
    )
