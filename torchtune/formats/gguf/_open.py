"""A GGUF file as where a model comes from."""

from pathlib import Path
from typing import Any

import torch

from torchtune.files import write_json
from torchtune.formats._source import Checkpoint
from torchtune.formats.gguf._config import gguf_config
from torchtune.formats.gguf._file import read_gguf
from torchtune.formats.gguf._weights import gguf_weights
from torchtune.formats.hf._config import architecture_from_hf
from torchtune.formats.hf._weights import expected_shapes
from torchtune.modules import Decoder
from torchtune.tokenizers import GENERATION_CONFIG, SpecialIds, adds_bos, gguf_tokenizer

_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot"}
"""GGUF's names of special tokens, in `tokenizer.ggml.<name>_token_id`."""

_TURN_ENDS = ("<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|end|>")
"""Tokens that end a turn in the families' chats, for files that do not name theirs."""


def open_gguf(path: Path) -> Checkpoint:
    """Look into a GGUF file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, cut short, or of a model or tokenizer that is not supported.
    """
    file = read_gguf(path)
    try:
        with torch.device("meta"):
            model = Decoder(architecture_from_hf(gguf_config(file)))
        tokenizer = gguf_tokenizer(file.metadata)
        tokenizer_config = _tokenizer_config(file.metadata)
        special_ids = _special_ids(file.metadata)
        weights = gguf_weights(file, model.architecture, expected_shapes(model))
    except KeyError as error:
        raise ValueError(f"{file.path} has no {error.args[0]!r} in its metadata") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{file.path} cannot be converted: {error}") from error

    def write_tokenizer(folder: Path) -> SpecialIds:
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        write_json(folder / "tokenizer_config.json", tokenizer_config)
        write_json(folder / GENERATION_CONFIG, special_ids)
        return special_ids

    return Checkpoint(
        path=file.path, model=model, weights=weights, write_tokenizer=write_tokenizer, dtype=torch.bfloat16
    )


def _special_tokens(metadata: dict[str, Any]) -> dict[str, int]:
    """Find the ids of the special tokens that the file names."""
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    if ids["eos"] is None:
        raise ValueError("it names no end-of-sequence token")
    n = len(metadata["tokenizer.ggml.tokens"])
    for name, i in ids.items():
        if i is not None and not 0 <= i < n:
            raise ValueError(f"its {name} token is number {i} of {n}, counted from 0")
    return {name: i for name, i in ids.items() if i is not None}


def _special_ids(metadata: dict[str, Any]) -> SpecialIds:
    """Say where texts begin and end as config.json and generation_config.json do."""
    ids = _special_tokens(metadata)
    template = metadata.get("tokenizer.chat_template", "")
    tokens = metadata["tokenizer.ggml.tokens"]
    turns = {tokens.index(end) for end in _TURN_ENDS if end in template and end in tokens}
    ends = sorted({ids["eos"], ids.get("eot", ids["eos"])} | turns)
    begin_and_pad = {f"{name}_token_id": ids[name] for name in ("bos", "pad") if name in ids}
    return SpecialIds({**begin_and_pad, "eos_token_id": ends if len(ends) > 1 else ends[0]})


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = _special_tokens(metadata)
    template = metadata.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": tokens[i] for name, i in ids.items() if name != "eot"},
        "add_bos_token": adds_bos(metadata),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata[f"{metadata['general.architecture']}.context_length"],
        **({} if template is None else {"chat_template": template}),
    }
