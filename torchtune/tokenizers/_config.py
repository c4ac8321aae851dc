"""The files next to a tokenizer's vocabulary: its special tokens, and how it is used."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from torchtune.files import read_json, unexpected
from torchtune.runs import missing_model_hint
from torchtune.tokenizers._chat_templates import CONFIG
from torchtune.tokenizers._special_ids import EOS, GENERATION_CONFIG, read_ids

if TYPE_CHECKING:
    from tokenizers import AddedToken as BackendToken

_SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED = "added_tokens_decoder"
_MORE = ("extra_special_tokens", "additional_special_tokens")
"""Special tokens without a name of their own; transformers 5 has the first name for what earlier ones wrote as the
second."""
_NAMED = ("model_specific_special_tokens", "extra_special_tokens")
"""Special tokens of one model, by their names."""


def tokenizer_file(path: str | os.PathLike[str], name: str) -> Path:
    """Find a tokenizer's file, given the file or its folder.

    Raises:
        FileNotFoundError: there is no such file.
    """
    file = Path(path)
    if file.is_dir():
        file /= name
    if not file.is_file():
        if not file.name.endswith((".json", ".model", ".txt")):  # nor does it name a file
            hint = missing_model_hint(path) or "tune download fetches one"
            raise FileNotFoundError(
                f"there is no folder {file}; the folder of a tokenizer, or its {name}, is expected; {hint}"
            )
        raise FileNotFoundError(
            f"no {file.name} in {file.parent}; the tokenizer's {name}, or the folder that holds it, is expected"
        )
    return file


@frozen
class AddedToken:
    """A token that is found in texts before these are split."""

    id: int
    special: bool = True
    lstrip: bool = False
    """Whether it takes the blanks before it."""
    rstrip: bool = False
    """Whether it takes the blanks after it."""
    single_word: bool = False
    """Whether it is found as a whole word only."""
    normalized: bool = False
    """Whether it is looked for in the normalised text."""

    def backend(self, text: str) -> "BackendToken":
        """Return it as the `tokenizers` library has it."""
        from tokenizers import AddedToken as BackendToken

        flags = asdict(self)
        del flags["id"]
        return BackendToken(text, **flags)


@frozen(slots=False)
class TokenizerConfig:
    """What tokenizer_config.json and the files next to it say."""

    values: dict[str, Any]
    """tokenizer_config.json, completed by special_tokens_map.json; empty where there is neither."""
    folder: Path

    @classmethod
    def beside(cls, file: Path) -> "TokenizerConfig":
        """Read the files next to a tokenizer's file.

        As in transformers, special_tokens_map.json counts only where tokenizer_config.json lists no added tokens.

        Raises:
            ValueError: one of them is damaged.
        """
        path, older = file.parent / CONFIG, file.parent / _SPECIAL_TOKENS_MAP
        values = read_json(path) if path.is_file() else {}
        if ADDED not in values and older.is_file():
            values |= read_json(older)
        return cls(values, file.parent)

    def token(self, name: str) -> str | None:
        """Return the text of a special token by its name, such as "bos_token"."""
        return _text(self.values.get(name))

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The texts of the special tokens that have a name, as transformers passes them to chat templates."""
        own = {name: token for name, token in self.values.items() if name.endswith("_token")}
        groups = [own, *(self.values.get(group) for group in _NAMED)]
        entries = (entry for group in groups if isinstance(group, Mapping) for entry in group.items())
        texts = ((name, _text(token)) for name, token in entries)
        return {name: text for name, text in texts if text is not None}

    @property
    def lists_added_tokens(self) -> bool:
        """Whether tokenizer_config.json lists the added tokens with their flags; older folders list only their ids."""
        return self.values.get(ADDED) is not None

    def special_texts(self) -> list[str]:
        """Return the texts of all special tokens that it names or lists."""
        lists = [self.values.get(name) for name in _MORE]
        listed = [_text(token) for tokens in lists if isinstance(tokens, list) for token in tokens]
        return [*dict.fromkeys([*self.special_tokens.values(), *(text for text in listed if text)])]

    def added_tokens(self) -> dict[str, AddedToken]:
        """Read the tokens that are added to the vocabulary, by their texts, in the order of their ids.

        Raises:
            ValueError: they are not written as transformers writes them.
        """
        added: dict[str, AddedToken] = {}
        tokens = self.values.get(ADDED)
        older = self.folder / "added_tokens.json"
        for text, i in (read_json(older) if tokens is None and older.is_file() else {}).items():
            _check_added(older, text, i)
            added[text] = AddedToken(i)
        if not isinstance(tokens, dict | None):
            raise unexpected(self._path, ADDED, tokens, "an object of tokens by their ids")
        for name, token in (tokens or {}).items():
            values = token if isinstance(token, dict) else {}
            content = values.get("content")
            i = int(name) if name.isdecimal() else name
            _check_added(self._path, content, i)
            assert isinstance(content, str)
            special = bool(values.get("special", False))
            defaults = {"normalized": not special}
            flags = {key: bool(values.get(key, defaults.get(key, False))) for key in _FLAGS}
            added[content] = AddedToken(i, special, **flags)
        return dict(sorted(added.items(), key=lambda item: item[1].id))

    def prefixes_everywhere(self) -> bool:
        """Tell whether SentencePiece's space goes before every text between special tokens, or before the first alone.

        As in transformers 5, `legacy` decides; without a tokenizer_config.json it goes before every one, as in the
        code of the models' authors.
        """
        return bool(self.values.get("legacy", not self._path.is_file()))

    def ends(self) -> list[int]:
        """Read the ids at which generation stops: those of generation_config.json, then those of config.json."""
        files = [self.folder / GENERATION_CONFIG, self.folder / "config.json"]
        return [i for file in files for i in read_ids(file, [EOS]).ends()]

    @property
    def _path(self) -> Path:
        return self.folder / CONFIG


_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def _text(token: Any) -> str | None:
    """Return a special token's text: transformers writes the text itself, or an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _check_added(path: Path, text: Any, i: Any) -> None:
    if not isinstance(text, str) or not text or type(i) is not int or i < 0:
        raise unexpected(path, "an added token", [i, text], "a whole number from 0, and its text,")
