"""Llama 3's tokenizer.model, which has tiktoken's format instead of SentencePiece's.

Each line has the base64-encoded bytes of a token and its rank, which is also its id. The special tokens are defined in
Meta's code (`Tokenizer` of `llama_models/llama3/tokenizer.py`, https://github.com/meta-llama/llama-models).
"""

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from attrs import evolve

from torchtune.tokenizers._backend import BackendTokenizer
from torchtune.tokenizers._build import SPLITS, add_tokens, from_ranks, prepend_token
from torchtune.tokenizers._config import TokenizerConfig, tokenizer_file
from torchtune.tokenizers._files import write_tokenizer
from torchtune.tokenizers._options import TokenizerOptions
from torchtune.tokenizers._special_ids import SpecialIds

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

N_RANKS = 128_000
"""Number of tokens in Llama 3's file; Llama 4's has 200,000 and splits text differently."""

_N_SPECIAL = 256
_NAMED = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
SPECIAL_TOKENS = (
    *_NAMED,
    *(f"<|reserved_special_token_{2 + i}|>" for i in range(_N_SPECIAL - len(_NAMED))),
)
"""Special tokens in the order of their ids, which follow the last rank."""

_PAD = "<|finetune_right_pad_id|>"
_STOPS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


def is_tiktoken(path: Path) -> bool:
    """Return whether a tokenizer.model begins like tiktoken's: with base64, a space and a number."""
    with path.open("rb") as file:
        token, _, rank = file.readline(1000).strip().partition(b" ")
    return bool(token) and rank.isdigit()


def read_tiktoken(path: Path) -> "Backend":
    """Build a tokenizer from Llama 3's tokenizer.model.

    Raises:
        ValueError: The file is damaged, or belongs to a different model.
    """
    ranks = _read_ranks(path)
    backend = from_ranks(ranks, SPLITS["llama-bpe"])
    add_tokens(backend, ((token, True) for token in SPECIAL_TOKENS))
    prepend_token(backend, SPECIAL_TOKENS[0])
    return backend


class TiktokenTokenizer(BackendTokenizer):
    """Llama 3's tokenizer.model.

    Args:
        path: The file, or its folder. Unless a tokenizer_config.json next to it declares an EOS token, texts begin with
            `<|begin_of_text|>` and end with `<|end_of_text|>`. Unless generation_config.json or config.json has other
            EOS ids, answers also end at `<|eot_id|>` and `<|eom_id|>`.
        **options: Options that all tokenizers accept.

    Raises:
        FileNotFoundError: tokenizer.model does not exist.
        ValueError: The file is damaged or belongs to a different model, or an option has no effect.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> None:
        file = tokenizer_file(path, "tokenizer.model")
        config = TokenizerConfig.for_file(file)
        if config.token("eos_token") is None:
            config = evolve(config, values={**_config(), **config.values})
        super().__init__(file, config, options)

    def _read(self) -> "Backend":
        return read_tiktoken(self._path)

    def _model_stop_ids(self) -> frozenset[int]:
        stops = super()._model_stop_ids()
        return stops if stops - {self.eos_id} else frozenset(_special_ids().eos_ids())


def write_tiktoken_tokenizer(file: Path, folder: Path) -> SpecialIds:
    """Write Llama 3's tokenizer in the Hugging Face format: tokenizer.json and its two configuration files.

    Args:
        file: The tokenizer.model.
        folder: Target folder.

    Returns:
        `bos_token_id`, `eos_token_id` and `pad_token_id`, for config.json.

    Raises:
        ValueError: The file is damaged, or belongs to a different model.
    """
    return write_tokenizer(folder, read_tiktoken(file).to_str(), _config(), _special_ids())


def _config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": _PAD,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
    }


def _special_ids() -> SpecialIds:
    ids = {token: N_RANKS + i for i, token in enumerate(SPECIAL_TOKENS)}
    return SpecialIds(
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=[ids[token] for token in _STOPS],
        pad_token_id=ids[_PAD],
    )


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for i, line in enumerate(path.read_bytes().splitlines()):
        token, _, rank = line.partition(b" ")
        try:
            if int(rank) != i:
                raise ValueError(f"expected rank {i}")
            ranks[base64.b64decode(token, validate=True)] = i
        except ValueError as error:
            raise ValueError(
                f"{path}, line {i + 1}: expected a token and its rank ({error}); download it again"
            ) from error
    if len(ranks) != N_RANKS or any(bytes([b]) not in ranks for b in range(256)):
        raise ValueError(
            f"{path} has {len(ranks):,} tokens, but Llama 3's has {N_RANKS:,} including every byte; the file is"
            " truncated, or belongs to a different model"
        )
    return ranks
