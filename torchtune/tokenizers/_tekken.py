"""Mistral's tekken.json: ranks of bytes, as tiktoken has them, with the special tokens before them.

The format is that of `Tekkenizer` in mistral_common (`tokens/tokenizers/tekken.py`,
https://github.com/mistralai/mistral-common).
"""

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from attrs import evolve

from torchtune.files import read_json, unexpected
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
"""Those of a file that lists none (`DEPRECATED_SPECIAL_TOKENS` of mistral_common)."""

_LISTS_NONE = 7
"""The last version whose files may list no special tokens."""

_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def is_tekken(path: Path) -> bool:
    """Tell whether a file is named as Mistral's are, such as tekken.json and tekken_240911.json."""
    return "tekken" in path.name and path.suffix == ".json"


class TekkenTokenizer(BackendTokenizer):
    """Mistral's tekken.json.

    Args:
        path: The file, or the folder that holds it. A tokenizer_config.json next to it may name other tokens for the
            beginning and the end of a text, and hold a chat template.
        **options: Options of every tokenizer.

    Raises:
        FileNotFoundError: there is no tekken.json.
        ValueError: it is damaged, or an option has no effect.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> None:
        file = tokenizer_file(path, "tekken.json")
        config = TokenizerConfig.beside(file)
        values = {"add_bos_token": True, **_NAMES, **config.values}
        super().__init__(file, evolve(config, values=values), options)

    def _read(self) -> "Backend":
        return read_tekken(self._path)


def read_tekken(path: Path) -> "Backend":
    """Build a tokenizer out of a tekken.json.

    Raises:
        ValueError: the file is damaged.
    """
    values = read_json(path)
    config = values.get("config")
    if not isinstance(config, dict):
        raise unexpected(path, "config", config, "an object of settings")
    pattern = config.get("pattern")
    if not isinstance(pattern, str):
        raise unexpected(path, "config.pattern", pattern, "a regular expression")
    special_tokens = _special_tokens(path, values, _number(path, config, "default_num_special_tokens"))
    num_ranks = _number(path, config, "default_vocab_size") - len(special_tokens)
    ranks = _ranks(path, values.get("vocab"), num_ranks)
    try:
        return from_ranks(ranks, Split(pattern, whole_words=True), special_tokens)
    except Exception as error:  # The library raises nothing narrower for a pattern.
        raise ValueError(f"{path} cannot be used: {error}; fetch it again") from error


def _special_tokens(path: Path, values: Mapping[str, Any], n: int) -> list[str]:
    """Return the texts of the special tokens in the order of their ids, those without one named as by Mistral."""
    entries = values.get("special_tokens")
    if entries is None:
        _check_may_list_none(path, values["config"].get("version"))
        texts = [*_OLDER_SPECIAL_TOKENS]
    else:
        texts = _texts(path, entries)
    texts += [f"<SPECIAL_{i}>" for i in range(len(texts), n)]
    if len(texts) > n or len({*texts}) < n:
        raise ValueError(
            f"{path}: special_tokens has {len(texts)} tokens, {len({*texts})} of them different, and"
            f" default_num_special_tokens is {n}; fetch it again"
        )
    return texts


def _texts(path: Path, entries: Any) -> list[str]:
    if not isinstance(entries, list):
        raise unexpected(path, "special_tokens", entries, "a list of tokens")
    for i, entry in enumerate(entries):
        values = entry if isinstance(entry, dict) else {}
        if values.get("rank") != i or not isinstance(values.get("token_str"), str) or not values["token_str"]:
            raise unexpected(path, f"special_tokens[{i}]", entry, f"a token_str and the rank {i}")
    return [str(entry["token_str"]) for entry in entries]


def _check_may_list_none(path: Path, version: Any) -> None:
    number = re.match(r"v(\d+)", version) if isinstance(version, str) else None
    if number is None or int(number[1]) > _LISTS_NONE:
        raise ValueError(
            f"{path} is of version {version!r} and lists no special_tokens, which only versions up to"
            f" v{_LISTS_NONE} may leave out; fetch it again"
        )


def _ranks(path: Path, entries: Any, n: int) -> dict[bytes, int]:
    """Return the first `n` ranks; Mistral's files hold more than their models use."""
    if not isinstance(entries, list) or len(entries) < n:
        raise unexpected(path, "vocab", entries, f"a list of at least {n} tokens")
    ranks: dict[bytes, int] = {}
    for i, entry in enumerate(entries[:n]):
        try:
            if entry["rank"] != i:
                raise ValueError(f"rank {i} was expected")
            ranks[base64.b64decode(entry["token_bytes"], validate=True)] = i
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: vocab[{i}] is not a token and its rank ({error}); fetch it again"
            ) from error
    if len(ranks) < n or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(f"{path}: vocab lacks bytes, or has a token twice; fetch it again")
    return ranks


def _number(path: Path, config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 0:
        raise unexpected(path, f"config.{name}", value, "a whole number from 0")
    return value
