"""The tokenizer in a GGUF file's metadata."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.tokenizers._build import SPLITS, add_tokens, byte_level, from_pieces, prepend_token
from torchtune.tokenizers._files import write_tokenizer
from torchtune.tokenizers._special_ids import SpecialIds

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_CONTROL, _USER_DEFINED = 3, 4
"""Token types: special tokens, and plain tokens that are recognized before text is split."""

_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot"}
"""GGUF's names of the special tokens, in `tokenizer.ggml.<name>_token_id`."""

_TURN_ENDS = ("<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|end|>")
"""Tokens that end a turn in the families' chat formats, for files that do not declare such tokens."""


def gguf_tokenizer_writer(metadata: dict[str, Any]) -> Callable[[Path], SpecialIds]:
    """Return a function that writes the tokenizer of a GGUF file to a Hugging Face folder.

    The function returns `bos_token_id`, `eos_token_id` and `pad_token_id`, for config.json.

    Raises:
        ValueError: The kind of tokenizer is not supported, or the tokenizer is inconsistent.
        KeyError: An entry of the metadata is missing.
    """
    text = gguf_tokenizer(metadata).to_str(pretty=True)
    config, special_ids = _tokenizer_config(metadata), _special_ids(metadata)
    return lambda folder: write_tokenizer(folder, text, config, special_ids)


def gguf_tokenizer(metadata: dict[str, Any]) -> "Backend":
    """Build the tokenizer of a GGUF file: byte-level BPE, or SentencePiece BPE.

    Raises:
        ValueError: The tokenizer is of an unsupported kind, or inconsistent.
        KeyError: An entry of the metadata is missing.
    """
    kind, tokens = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    if len(set(tokens)) != len(tokens) or len(kinds) != len(tokens):
        raise ValueError("the file's tokenizer has a duplicate token or a token without a type")
    backend = _sentencepiece(metadata) if kind == "llama" else _byte_level(metadata)
    is_special = {_CONTROL: True, _USER_DEFINED: False}
    added_tokens = ((token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in is_special)
    add_tokens(backend, ((token, is_special[kind]) for token, kind in added_tokens))
    if _adds_bos(metadata):
        prepend_token(backend, tokens[metadata["tokenizer.ggml.bos_token_id"]])
    return backend


def _adds_bos(metadata: dict[str, Any]) -> bool:
    """Return whether plain text begins with BOS, according to the file or, by default, as in llama.cpp."""
    is_sentencepiece = metadata["tokenizer.ggml.model"] == "llama"
    default = is_sentencepiece or SPLITS[metadata["tokenizer.ggml.pre"]].adds_bos
    has_bos = "tokenizer.ggml.bos_token_id" in metadata
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default) and has_bos)


def _byte_level(metadata: dict[str, Any]) -> "Backend":
    kind, pre = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != "gpt2" or pre not in SPLITS:
        raise ValueError(
            f"the file's tokenizer has the unsupported kind {kind!r} / {pre!r}; expected 'llama' or 'gpt2' /"
            f" {' or '.join(map(repr, SPLITS))}"
        )
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    if any(len(merge) != 2 for merge in merges):
        raise ValueError("the file's tokenizer has a merge that is not a pair")
    vocabulary = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", False)
    return byte_level(vocabulary, merges, SPLITS[pre], space_prefix=prefix)


def _sentencepiece(metadata: dict[str, Any]) -> "Backend":
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    if len(scores) != len(tokens):
        raise ValueError("the file's tokenizer has a token without a score")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    return from_pieces(
        tokens,
        scores,
        unknown=None if unknown is None else tokens[unknown],
        space_prefix=metadata.get("tokenizer.ggml.add_space_prefix", True),
    )


def _special_tokens(metadata: dict[str, Any]) -> dict[str, int]:
    """Return the ids of the special tokens that the file declares."""
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    if ids["eos"] is None:
        raise ValueError("it declares no end-of-sequence token")
    n = len(metadata["tokenizer.ggml.tokens"])
    for name, i in ids.items():
        if i is not None and not 0 <= i < n:
            raise ValueError(f"its {name} token has the id {i}, but there are only {n} tokens")
    return {name: i for name, i in ids.items() if i is not None}


def _special_ids(metadata: dict[str, Any]) -> SpecialIds:
    """Return the special ids in the format of config.json and generation_config.json."""
    ids = _special_tokens(metadata)
    template = metadata.get("tokenizer.chat_template", "")
    tokens = metadata["tokenizer.ggml.tokens"]
    turn_ends = {tokens.index(end) for end in _TURN_ENDS if end in template and end in tokens}
    ends = sorted({ids["eos"], ids.get("eot", ids["eos"])} | turn_ends)
    begin_and_pad = {f"{name}_token_id": ids[name] for name in ("bos", "pad") if name in ids}
    return SpecialIds({**begin_and_pad, "eos_token_id": ends if len(ends) > 1 else ends[0]})


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = _special_tokens(metadata)
    template = metadata.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": tokens[i] for name, i in ids.items() if name != "eot"},
        "add_bos_token": _adds_bos(metadata),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata[f"{metadata['general.architecture']}.context_length"],
        **({} if template is None else {"chat_template": template}),
    }
