"""Configuration files next to a tokenizer's vocabulary, which declare its special tokens and settings."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from torchtune.files import read_json, unexpected_value
from torchtune.runs import missing_model_hint
from torchtune.tokenizers._chat_templates import CONFIG
from torchtune.tokenizers._special_ids import EOS, GENERATION_CONFIG, read_ids

if TYPE_CHECKING:
    from tokenizers import AddedToken as BackendToken

_SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED = "added_tokens_decoder"
_UNNAMED = ("extra_special_tokens", "additional_special_tokens")
"""Keys of unnamed special tokens: the key of transformers 5, and the key of earlier versions."""
_NAMED = ("model_specific_special_tokens", "extra_special_tokens")
"""Keys whose values map names to model-specific special tokens."""


def tokenizer_file(path: str | os.PathLike[str], name: str) -> Path:
    """Return a tokenizer's file, given the file or its folder.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    file = Path(path)
    if file.is_dir():
        file /= name
    if not file.is_file():
        if not file.name.endswith((".json", ".model", ".txt")):  # it does not look like a file name
            hint = missing_model_hint(path) or "download one with tune download"
            raise FileNotFoundError(
                f"no such folder: {file}; expected a tokenizer folder or its {name}; {hint}"
            )
        raise FileNotFoundError(f"no {file.name} in {file.parent}; expected a {name} or its folder")
    return file


@frozen
class AddedToken:
    """A token that is recognized before texts are split."""

    id: int
    special: bool = True
    lstrip: bool = False
    """Whether the token includes the white space before it."""
    rstrip: bool = False
    """Whether the token includes the white space after it."""
    single_word: bool = False
    """Whether the token is recognized only as a whole word."""
    normalized: bool = False
    """Whether the token is searched for in the normalized text."""

    def backend(self, text: str) -> "BackendToken":
        """Return the token as an `AddedToken` of the `tokenizers` library."""
        from tokenizers import AddedToken as BackendToken

        flags = asdict(self)
        del flags["id"]
        return BackendToken(text, **flags)


@frozen(slots=False)
class TokenizerConfig:
    """Contents of tokenizer_config.json and the files next to it."""

    values: dict[str, Any]
    """Contents of tokenizer_config.json and special_tokens_map.json; empty if neither file exists."""
    folder: Path

    @classmethod
    def for_file(cls, file: Path) -> "TokenizerConfig":
        """Read the configuration files next to a tokenizer's file.

        As in transformers, special_tokens_map.json is ignored if tokenizer_config.json lists added tokens.

        Raises:
            ValueError: A file is damaged.
        """
        path, legacy_file = file.parent / CONFIG, file.parent / _SPECIAL_TOKENS_MAP
        values = read_json(path) if path.is_file() else {}
        if ADDED not in values and legacy_file.is_file():
            values |= read_json(legacy_file)
        return cls(values, file.parent)

    def token(self, name: str) -> str | None:
        """Return the text of a special token, given its name, such as "bos_token"."""
        return _text(self.values.get(name))

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the named special tokens, as transformers passes them to chat templates."""
        named = {name: token for name, token in self.values.items() if name.endswith("_token")}
        groups = [named, *(self.values.get(group) for group in _NAMED)]
        entries = (entry for group in groups if isinstance(group, Mapping) for entry in group.items())
        texts = ((name, _text(token)) for name, token in entries)
        return {name: text for name, text in texts if text is not None}

    @property
    def lists_added_tokens(self) -> bool:
        """Whether tokenizer_config.json lists the added tokens with their flags; older folders list only their ids."""
        return self.values.get(ADDED) is not None

    def special_texts(self) -> list[str]:
        """Return all declared special tokens, as text."""
        lists = [self.values.get(name) for name in _UNNAMED]
        unnamed = [_text(token) for tokens in lists if isinstance(tokens, list) for token in tokens]
        return [*dict.fromkeys([*self.special_tokens.values(), *(text for text in unnamed if text)])]

    def added_tokens(self) -> dict[str, AddedToken]:
        """Read the tokens that are added to the vocabulary, by text, in the order of their ids.

        Raises:
            ValueError: The entries are not in the format of transformers.
        """
        added: dict[str, AddedToken] = {}
        tokens = self.values.get(ADDED)
        legacy_file = self.folder / "added_tokens.json"
        for text, i in (read_json(legacy_file) if tokens is None and legacy_file.is_file() else {}).items():
            _check_added(legacy_file, text, i)
            added[text] = AddedToken(i)
        if not isinstance(tokens, dict | None):
            raise unexpected_value(self._file, ADDED, tokens, "an object that maps ids to tokens")
        for name, token in (tokens or {}).items():
            values = token if isinstance(token, dict) else {}
            content = values.get("content")
            i = int(name) if name.isdecimal() else name
            _check_added(self._file, content, i)
            assert isinstance(content, str)
            special = bool(values.get("special", False))
            defaults = {"normalized": not special}
            flags = {key: bool(values.get(key, defaults.get(key, False))) for key in _FLAGS}
            added[content] = AddedToken(i, special, **flags)
        return dict(sorted(added.items(), key=lambda item: item[1].id))

    def adds_space_to_every_segment(self) -> bool:
        """Return whether SentencePiece prepends a space to each text between special tokens, not only the first.

        As in transformers 5, this depends on `legacy`. Without a tokenizer_config.json, the space is always prepended,
        as in the code of the models' authors.
        """
        return bool(self.values.get("legacy", not self._file.is_file()))

    def eos_ids(self) -> list[int]:
        """Read the ids that end generation from generation_config.json, then from config.json."""
        files = [self.folder / GENERATION_CONFIG, self.folder / "config.json"]
        return [i for file in files for i in read_ids(file, [EOS]).eos_ids()]

    @property
    def _file(self) -> Path:
        return self.folder / CONFIG


_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def _text(token: Any) -> str | None:
    """Return a special token's text; transformers stores it as a string or in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _check_added(path: Path, text: Any, i: Any) -> None:
    if not isinstance(text, str) or not text or type(i) is not int or i < 0:
        raise unexpected_value(path, "an added token", [i, text], "a non-negative integer id and its text")
