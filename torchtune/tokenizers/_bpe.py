"""Byte-level BPE tokenizers stored as in GPT-2: vocab.json and merges.txt.

The files do not define how text is split into words before merging; that depends on `tokenizer_class` in
tokenizer_config.json, which names a class of transformers.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from attrs import evolve, field, frozen

from torchtune.files import read_json, unexpected_value
from torchtune.tokenizers._backend import BackendTokenizer, add_configured_tokens
from torchtune.tokenizers._build import SPLITS, Split, byte_level
from torchtune.tokenizers._config import TokenizerConfig, tokenizer_file
from torchtune.tokenizers._options import TokenizerOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

VOCABULARY, MERGES = "vocab.json", "merges.txt"

_END = "<|endoftext|>"
_GPT2_TOKENS = {"bos_token": _END, "eos_token": _END, "unk_token": _END}


@frozen
class BPEClass:
    """Settings of a tokenizer class of transformers that are not in the two files."""

    split: Split
    special_tokens: Mapping[str, str] = field(factory=dict)
    """Special tokens, unless tokenizer_config.json declares others."""


_GPT2 = BPEClass(SPLITS["gpt-2"], _GPT2_TOKENS)
_QWEN2 = BPEClass(SPLITS["qwen2"], {"eos_token": _END, "pad_token": _END, "unk_token": _END})
_NEOX = BPEClass(Split(nfc=True), {**_GPT2_TOKENS, "pad_token": "<|padding|>"})

CLASSES = {
    "CodeGenTokenizer": _GPT2,
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": _NEOX,
    "Qwen2Tokenizer": _QWEN2,
}
"""Classes by name, without the suffix "Fast" (`models/*/tokenization_*.py` of transformers 5)."""

MODEL_TYPES = {
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "starcoder2"), "GPT2Tokenizer"),
    **dict.fromkeys(("gpt_neox", "olmo"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
}
"""Default classes by `model_type` in config.json (`tokenization_auto.py` of transformers 5)."""


class BPETokenizer(BackendTokenizer):
    """A vocab.json with a merges.txt, as in GPT-2 and Qwen2.

    Args:
        path: One of the two files, or their folder.
        split: Name, in llama.cpp, of the rule that splits text into words: "gpt-2", "smollm", "llama-bpe", "dbrx" or
            "qwen2".
            Null: determined by `tokenizer_class` in tokenizer_config.json or, if absent, `model_type` in config.json.
        **options: Options that all tokenizers accept.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: A file is damaged, `tokenizer_class` is unknown, a special token is not in the vocabulary, or an
            option has no effect.
    """

    def __init__(
        self, path: str | os.PathLike[str], split: str | None = None, **options: Unpack[TokenizerOptions]
    ) -> None:
        folder = str(tokenizer_file(path, VOCABULARY).parent)
        self._merges_file = tokenizer_file(folder, MERGES)
        file = tokenizer_file(folder, VOCABULARY)
        config = TokenizerConfig.for_file(file)
        self._class = _tokenizer_class(config, split)
        self._vocabulary = _read_vocabulary(file)
        vocabulary = {*self._vocabulary, *config.added_tokens()}
        tokens = {name: text for name, text in self._class.special_tokens.items() if text in vocabulary}
        super().__init__(file, evolve(config, values={**tokens, **config.values}), options, split=split)

    def _read(self) -> "Backend":
        prefix = bool(self._config.values.get("add_prefix_space", False))
        try:
            merges = _read_merges(self._merges_file)
            backend = byte_level(self._vocabulary, merges, self._class.split, space_prefix=prefix)
        except ValueError as error:
            raise ValueError(
                f"{self._path.parent}: {error}; download {VOCABULARY} and {MERGES} again"
            ) from error
        add_configured_tokens(backend, self._config)
        return backend

    def _files(self) -> list[Path]:
        return [self._path, self._merges_file]


def _tokenizer_class(config: TokenizerConfig, split: str | None) -> BPEClass:
    """Return the tokenizer class, which defines the word splitting and the default special tokens."""
    file = config.folder / "tokenizer_config.json"
    name = config.values.get("tokenizer_class")
    model = config.folder / "config.json"
    if name is None and model.is_file():
        file = model
        name = MODEL_TYPES.get(str(read_json(model).get("model_type")))
    bpe_class = CLASSES.get(name.removesuffix("Fast")) if isinstance(name, str) else None
    if split is not None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        return BPEClass(SPLITS[split], bpe_class.special_tokens if bpe_class else {})
    if bpe_class is None:
        raise ValueError(
            f"{file}: tokenizer_class {name!r} is not supported; expected one of {', '.join(CLASSES)}; set `split` of"
            " torchtune.tokenizers.BPETokenizer, or download the tokenizer.json"
        )
    return bpe_class


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Read the ids of the tokens.

    Raises:
        ValueError: The file is not a mapping of tokens to ids.
    """
    vocabulary = read_json(path)
    for token, number in vocabulary.items():
        if type(number) is not int or number < 0:
            raise unexpected_value(path, repr(token), number, "a non-negative integer")
    if len({*vocabulary.values()}) < len(vocabulary):
        raise ValueError(f"{path}: two tokens have the same id; download it again")
    return vocabulary


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """Read the pairs of tokens to merge, in order of priority.

    Raises:
        ValueError: A line is not a pair.
    """
    merges = []
    for i, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        first, _, second = line.rstrip("\r").partition(" ")
        if line.startswith("#version") or not line.strip("\r"):
            continue
        if not first or not second or " " in second:
            raise ValueError(f"{MERGES}, line {i}, is not a pair of tokens: {line!r}")
        merges.append((first, second))
    return merges
