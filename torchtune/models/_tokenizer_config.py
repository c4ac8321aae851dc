"""What stands beside a tokenizer: its special tokens and its chat template."""

from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune.data import ChatTemplate
from torchtune.models._json import read_json


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
        path = file.parent / "tokenizer_config.json"
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
        path = self.folder / "added_tokens.json"
        try:
            found = {
                text: AddedToken(int(i)) for text, i in (read_json(path) if path.is_file() else {}).items()
            }
            for i, token in self.values.get("added_tokens_decoder", {}).items():
                flags = {key: bool(token.get(key, False)) for key in ("special", "lstrip", "rstrip")}
                found[token["content"]] = AddedToken(int(i), **flags)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise ValueError(
                f"the added tokens of {self.folder} (tokenizer_config.json or added_tokens.json) are damaged"
                f" ({error!r}); fetch them again"
            ) from error
        return found

    def prefixes_everywhere(self) -> bool:
        """Tell whether SentencePiece's space goes before every text between special tokens, or the first alone.

        As transformers 5 has it, `legacy` says so; without any tokenizer_config.json, the models' authors do so.
        """
        return bool(self.values.get("legacy", not self.values))

    def stop_ids(self) -> frozenset[int]:
        """Read the ids at which generation is to stop out of generation_config.json, if it is there."""
        return frozenset(self._eos_ids("generation_config.json"))

    def eos_id(self) -> int | None:
        """Look up the id that ends a text where the model's own files have it, not the tokenizer's."""
        ids = self._eos_ids("generation_config.json") or self._eos_ids("config.json")
        return ids[0] if ids else None

    def _eos_ids(self, name: str) -> list[int]:
        path = self.folder / name
        ids = read_json(path).get("eos_token_id") if path.is_file() else None
        return ids if isinstance(ids, list) else [] if ids is None else [ids]

    def chat_template(self) -> ChatTemplate | None:
        """Read the chat template, which newer folders keep in a file of its own.

        Raises:
            ValueError: it is not valid.
        """
        file = self.folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else self.values.get("chat_template")
        if isinstance(source, list):  # Several by name; the one for plain conversations is "default".
            source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
        if not isinstance(source, str):
            return None
        try:
            return ChatTemplate(source, self.token("bos_token") or "", self.token("eos_token") or "")
        except ValueError as error:
            where = file if file.is_file() else self.folder / "tokenizer_config.json"
            raise ValueError(f"{where}: {error}") from error
