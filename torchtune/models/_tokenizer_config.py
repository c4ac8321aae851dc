"""What stands beside a tokenizer: its special tokens and its chat template."""

from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune.data import ChatTemplate
from torchtune.models._hf_config import read_json


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

    def stop_ids(self) -> frozenset[int]:
        """Read the ids at which generation is to stop out of generation_config.json, if it is there."""
        path = self.folder / "generation_config.json"
        ids = read_json(path).get("eos_token_id") if path.is_file() else None
        return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])

    def chat_template(self) -> ChatTemplate | None:
        """Read the chat template, which newer folders keep in a file of its own."""
        file = self.folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else self.values.get("chat_template")
        if isinstance(source, list):  # Several by name; the one for plain conversations is "default".
            source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
        if not isinstance(source, str):
            return None
        return ChatTemplate(source, self.token("bos_token") or "", self.token("eos_token") or "")
