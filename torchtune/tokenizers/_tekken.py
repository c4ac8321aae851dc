"""Mistral's tekken.json: ranks as in tiktoken, preceded by the special tokens.

The format is defined by `Tekkenizer` in mistral_common (`tokens/tokenizers/tekken.py`,
https://github.com/mistralai/mistral-common).
"""

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from attrs import evolve

from torchtune.files import read_json, unexpected_value
from torchtune.tokenizers._backend import BackendTokenizer
from torchtune.tokenizers._build import Split, from_ranks
from torchtune.tokenizers._config import TokenizerConfig, tokenizer_file
from torchtune.tokenizers._options import TokenizerOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_OLDER_SPECIAL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)
"""Special tokens of files that list none (`DEPRECATED_SPECIAL_TOKENS` of mistral_common)."""

_LAST_WITHOUT_SPECIAL_TOKENS = 7
"""Last version whose files may omit the special tokens."""

_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def is_tekken(path: Path) -> bool:
    """Return whether a file is named like Mistral's, such as tekken.json or tekken_240911.json."""
    return "tekken" in path.name and path.suffix == ".json"


class TekkenTokenizer(BackendTokenizer):
    """A tokenizer that is stored in Mistral's tekken.json.

    Args:
        path: The file, or its folder. A tokenizer_config.json next to it may declare other BOS and EOS tokens, and a
            chat template.
        **options: Options that all tokenizers accept.

    Raises:
        FileNotFoundError: tekken.json does not exist.
        ValueError: The file is damaged, or an option has no effect.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> None:
        file = tokenizer_file(path, "tekken.json")
        config = TokenizerConfig.for_file(file)
        values = {"add_bos_token": True, **_NAMES, **config.values}
        super().__init__(file, evolve(config, values=values), options)

    def _read(self) -> "Backend":
        return read_tekken(self._path)


def read_tekken(path: Path) -> "Backend":
    """Build a tokenizer from a tekken.json.

    Raises:
        ValueError: The file is damaged.
    """
    values = read_json(path)
    config = values.get("config")
    if not isinstance(config, dict):
        raise unexpected_value(path, "config", config, "an object of settings")
    pattern = config.get("pattern")
    if not isinstance(pattern, str):
        raise unexpected_value(path, "config.pattern", pattern, "a regular expression")
    special_tokens = _special_tokens(path, values, _number(path, config, "default_num_special_tokens"))
    num_ranks = _number(path, config, "default_vocab_size") - len(special_tokens)
    ranks = _ranks(path, values.get("vocab"), num_ranks)
    try:
        return from_ranks(ranks, Split(pattern, whole_words=True), special_tokens)
    except Exception as error:  # the library raises no narrower type for patterns
        raise ValueError(f"{path} cannot be used: {error}; download it again") from error


def _special_tokens(path: Path, values: Mapping[str, Any], n: int) -> list[str]:
    """Return the special tokens as text, by id; unlisted tokens have Mistral's default names."""
    entries = values.get("special_tokens")
    if entries is None:
        _check_may_omit_special_tokens(path, values["config"].get("version"))
        texts = [*_OLDER_SPECIAL_TOKENS]
    else:
        texts = _texts(path, entries)
    texts += [f"<SPECIAL_{i}>" for i in range(len(texts), n)]
    if len(texts) > n or len({*texts}) < n:
        raise ValueError(
            f"{path}: special_tokens has {len(texts)} tokens ({len({*texts})} distinct), but"
            f" default_num_special_tokens is {n}; download it again"
        )
    return texts


def _texts(path: Path, entries: Any) -> list[str]:
    if not isinstance(entries, list):
        raise unexpected_value(path, "special_tokens", entries, "a list of tokens")
    for i, entry in enumerate(entries):
        values = entry if isinstance(entry, dict) else {}
        if values.get("rank") != i or not isinstance(values.get("token_str"), str) or not values["token_str"]:
            raise unexpected_value(path, f"special_tokens[{i}]", entry, f"a token_str and the rank {i}")
    return [str(entry["token_str"]) for entry in entries]


def _check_may_omit_special_tokens(path: Path, version: Any) -> None:
    number = re.match(r"v(\d+)", version) if isinstance(version, str) else None
    if number is None or int(number[1]) > _LAST_WITHOUT_SPECIAL_TOKENS:
        raise ValueError(
            f"{path} has version {version!r} but no special_tokens, which only versions up to"
            f" v{_LAST_WITHOUT_SPECIAL_TOKENS} may omit; download it again"
        )


def _ranks(path: Path, entries: Any, n: int) -> dict[bytes, int]:
    """Return the first `n` ranks; Mistral's files have more than the models use."""
    if not isinstance(entries, list) or len(entries) < n:
        raise unexpected_value(path, "vocab", entries, f"a list of at least {n} tokens")
    ranks: dict[bytes, int] = {}
    for i, entry in enumerate(entries[:n]):
        try:
            if entry["rank"] != i:
                raise ValueError(f"expected rank {i}")
            ranks[base64.b64decode(entry["token_bytes"], validate=True)] = i
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: vocab[{i}] is not a valid token entry ({error}); download it again"
            ) from error
    if len(ranks) < n or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(f"{path}: vocab lacks some bytes, or has duplicate tokens; download it again")
    return ranks


def _number(path: Path, config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 0:
        raise unexpected_value(path, f"config.{name}", value, "a non-negative integer")
    return value
