"""Tokenizers of the Hugging Face kind: a tokenizer.json."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.data import ChatTemplate
from torchtune.models._tokenizer_config import TokenizerConfig, tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class HFTokenizer:
    """A tokenizer.json, with the special tokens and chat template that its neighbours name.

    Args:
        path: A tokenizer.json with tokenizer_config.json beside it, or their folder.

    Raises:
        FileNotFoundError: there is no tokenizer.json, or no tokenizer_config.json beside it.
        ValueError: one of them is damaged, or a special token is not in the vocabulary.
    """

    def __init__(self, path: str) -> None:
        self._path = tokenizer_file(path, "tokenizer.json")
        config = TokenizerConfig.beside(self._path)
        if not config.values:
            raise FileNotFoundError(
                f"no tokenizer_config.json beside {self._path}; it names the special tokens"
            )
        self._plain = _read_backend(self._path)
        self._plain.encode_special_tokens = True  # To encode them as the text they are.
        self.vocab_size: int = 1 + max(self._plain.get_vocab().values())
        self.chat_template: ChatTemplate | None = config.chat_template()
        self.eos_id: int = self._id(config, "eos_token")
        self.pad_id: int = self.eos_id if config.token("pad_token") is None else self._id(config, "pad_token")
        self.stop_ids: frozenset[int] = config.stop_ids() | {self.eos_id}
        self.bos_id: int | None = self._id(config, "bos_token") if self._adds_bos(config) else None
        """None also for a model that has such a token but begins no text with it, as SmolLM2."""

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encode plain text; a special token spelt out in it stays plain text.

        Args:
            text: What to encode.
            add_bos: Put `bos_id` first; without effect where it is None.
            add_eos: Put `eos_id` last.
        """
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        ids = self._plain.encode(text, add_special_tokens=False).ids
        return [*bos, *ids, *([self.eos_id] if add_eos else [])]

    def encode_template(self, text: str) -> list[int]:
        """Encode text that a chat template rendered: its special tokens become their ids, none are added."""
        return list(self._special.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, leaving special tokens out."""
        return self._special.decode(list(ids), skip_special_tokens=True)

    def __reduce__(self) -> tuple[type["HFTokenizer"], tuple[str]]:
        """Pickle the path alone: the library forgets on the way that special tokens are to stay text."""
        return HFTokenizer, (str(self._path),)

    @cached_property
    def _special(self) -> "Backend":
        """The same tokenizer, which finds special tokens in what it reads."""
        return _read_backend(self._path)

    def _id(self, config: TokenizerConfig, name: str) -> int:
        token = config.token(name)
        number = None if token is None else self._plain.token_to_id(token)
        if number is None:
            raise ValueError(
                f"{config.folder}/tokenizer_config.json: {name} is {token!r}, which is not in the vocabulary"
                f" of {self._path.name}"
            )
        return number

    def _adds_bos(self, config: TokenizerConfig) -> bool:
        """Tell whether this model's texts begin with BOS: as configured, or as tokenizer.json itself does."""
        if "add_bos_token" in config.values:
            return bool(config.values["add_bos_token"])
        bos = config.token("bos_token")
        return bos is not None and self._special.encode("a").tokens[:1] == [bos]


def _read_backend(path: Path) -> "Backend":
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    except Exception as error:  # The library raises nothing narrower.
        raise ValueError(
            f"{path} is not a tokenizer.json, or is damaged ({error}); fetch it again"
        ) from error
