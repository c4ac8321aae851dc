"""What stands beside a tokenizer: its special tokens and its chat template."""

import hashlib
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune.data import ChatTemplate
from torchtune.models._json import read_json, unexpected
from torchtune.models._special_ids import GENERATION_CONFIG, read_ends

_CONFIG = "tokenizer_config.json"


def tokenizer_file(path: str, name: str) -> Path:
    """Find a tokenizer's file, given itself or its folder.

    Raises:
        FileNotFoundError: it is not there.
    """
    file = Path(path)
    if file.is_dir():
        file /= name
    if not file.is_file():
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
    """Whether it swallows the blanks before it."""
    rstrip: bool = False
    """Whether it swallows the blanks behind it."""


@frozen
class TokenizerConfig:
    """The parts of tokenizer_config.json and its neighbours that say how a tokenizer is used."""

    values: dict[str, Any]
    """tokenizer_config.json, or nothing."""
    folder: Path

    @classmethod
    def beside(cls, file: Path) -> "TokenizerConfig":
        """Read what stands beside a tokenizer's file.

        Raises:
            ValueError: tokenizer_config.json is damaged.
        """
        path = file.parent / _CONFIG
        return cls(read_json(path) if path.is_file() else {}, file.parent)

    def token(self, name: str) -> str | None:
        """Look a special token up: its text, as "bos_token", "eos_token" or "pad_token" names it."""
        token = self.values.get(name)
        # transformers writes either the text itself, or an object that holds it.
        text = token.get("content") if isinstance(token, dict) else token
        return text if isinstance(text, str) else None

    def named_tokens(self) -> list[str]:
        """Return the texts of the special tokens that have a name of their own."""
        found = map(self.token, ("bos_token", "eos_token", "pad_token"))
        return [token for token in found if token is not None]

    def added_tokens(self) -> dict[str, AddedToken]:
        """Read the tokens that stand beside the vocabulary, by their texts, from wherever transformers wrote them.

        Raises:
            ValueError: they are not written as transformers does.
        """
        found: dict[str, AddedToken] = {}
        older = self.folder / "added_tokens.json"
        for text, i in (read_json(older) if older.is_file() else {}).items():
            _check_added(older, text, i)
            found[text] = AddedToken(i)
        tokens = self.values.get("added_tokens_decoder")
        if not isinstance(tokens, dict | None):
            raise unexpected(self._path, "added_tokens_decoder", tokens, "an object of tokens by their ids")
        for name, token in (tokens or {}).items():
            values = token if isinstance(token, dict) else {}
            content, i = values.get("content"), int(name) if name.isdecimal() else name
            _check_added(self._path, content, i)
            assert isinstance(content, str)
            flags = {key: bool(values.get(key, False)) for key in ("special", "lstrip", "rstrip")}
            found[content] = AddedToken(i, **flags)
        return found

    def prefixes_everywhere(self) -> bool:
        """Tell whether SentencePiece's space goes before every text between special tokens, or the first alone.

        As transformers 5 has it, `legacy` says so; without any tokenizer_config.json, the models' authors do so.
        """
        return bool(self.values.get("legacy", not self.values))

    def stop_ids(self) -> frozenset[int]:
        """Read the ids at which generation is to stop out of generation_config.json, if it is there."""
        return frozenset(read_ends(self.folder / GENERATION_CONFIG))

    def eos_id(self) -> int | None:
        """Look up the id that ends a text where the model's own files have it, not the tokenizer's."""
        ids = read_ends(self.folder / GENERATION_CONFIG) or read_ends(self.folder / "config.json")
        return ids[0] if ids else None

    def chat_template(self) -> ChatTemplate | None:
        """Read the chat template, which newer folders keep in a file of its own.

        Raises:
            ValueError: it is not valid.
        """
        file = self.folder / "chat_template.jinja"
        is_apart = file.is_file()
        source = _read_text(file) if is_apart else self._own_template()
        if source is None:
            return None
        try:
            return ChatTemplate(source, self.token("bos_token") or "", self.token("eos_token") or "")
        except ValueError as error:
            raise ValueError(f"{file if is_apart else self._path}: {error}") from error

    @property
    def _path(self) -> Path:
        return self.folder / _CONFIG

    def _own_template(self) -> str | None:
        """Return the template in tokenizer_config.json: the only one, or the one for plain conversations of several."""
        found = self.values.get("chat_template")
        if found is None or isinstance(found, str):
            return found
        entries = found if isinstance(found, list) else [found]
        if not all(isinstance(e, dict) and isinstance(e.get("template"), str) for e in entries):
            what = "a template, or a list of objects with a name and a template,"
            raise unexpected(self._path, "chat_template", found, what)
        return next((str(e["template"]) for e in entries if e.get("name") == "default"), None)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text in UTF-8 ({error}); fetch it again") from error


def _check_added(path: Path, text: Any, i: Any) -> None:
    if not isinstance(text, str) or not text or type(i) is not int or i < 0:
        raise unexpected(path, "an added token", [i, text], "a whole number from 0, and its text,")


def fingerprint_of(path: Path, *settings: object) -> str:
    """Return a digest of a tokenizer's file, of all that stands beside it and says how it is used, and of settings."""
    names = (
        "tokenizer_config.json",
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "config.json",
    )
    digest = hashlib.sha256(repr(settings).encode())
    for file in (path, *(path.parent / name for name in names)):
        digest.update(f"{file.name} {file.stat().st_size if file.is_file() else None}".encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()
