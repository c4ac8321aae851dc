"""Base class of all tokenizers."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchtune.data import ChatTemplate
from torchtune.tokenizers._chat_templates import ADDITIONAL_CHAT_TEMPLATES, read_chat_template
from torchtune.tokenizers._config import TokenizerConfig
from torchtune.tokenizers._files import SIDE_FILES
from torchtune.tokenizers._options import TokenizerOptions, check_options, options_text, unknown_token_error
from torchtune.tokenizers._special_ids import GENERATION_CONFIG


class BaseTokenizer(ABC):
    """A tokenizer that was loaded from a file.

    Args:
        path: The file.
        config: Contents of the configuration files next to it.
        options: Options of the tokenizer.
        **settings: Arguments of the subclass other than the path and the options, by name.

    Raises:
        TypeError: An option is unknown.
        ValueError: An option has no effect or an invalid value.
    """

    vocab_size: int
    special_tokens: Mapping[str, int]
    content_tokens: frozenset[str]
    """Special tokens that are also recognized in messages and plain text."""
    unknown_id: int | None
    """Id for text that no token can represent; None if every text can be represented."""
    bos_id: int | None
    """The id that begins texts; None if the model's texts do not begin with one, as in SmolLM2."""
    eos_id: int
    pad_id: int
    stop_ids: frozenset[int]

    def __init__(
        self, path: Path, config: TokenizerConfig, options: TokenizerOptions, **settings: Any
    ) -> None:
        check_options(options)
        self._path = path
        self._config = config
        self._options = options
        self._settings = settings
        self.chat_template: ChatTemplate | None = read_chat_template(
            config.folder, config.values, config.special_tokens, options
        )

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encode plain text; special tokens spelled out in it stay plain text, except `content_tokens`.

        Args:
            text: The text.
            add_bos: Prepend `bos_id`, unless the tokenizer has none.
            add_eos: Append `eos_id`.
        """
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        return [*bos, *self._encode(text), *([self.eos_id] if add_eos else [])]

    @abstractmethod
    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered; special tokens are recognized, and no token is added.

        Args:
            text: The text.
            plain: Start and end, in characters, of the spans in which special tokens are encoded as text.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids into text; special tokens other than `content_tokens` are skipped."""

    def fingerprint(self) -> str:
        """Return a digest of everything that encoding depends on."""
        settings = (
            type(self).__name__,
            *self._settings.items(),
            options_text(self._options),
            self.chat_template,
        )
        digest = hashlib.sha256(repr(settings).encode())
        folder = self._path.parent
        side_files = [folder / name for name in (*SIDE_FILES, GENERATION_CONFIG, "config.json")]
        templates = sorted((folder / ADDITIONAL_CHAT_TEMPLATES).glob("*.jinja"))
        for file in (*self._files(), *side_files, *templates):
            digest.update(f"{file.name} {file.stat().st_size if file.is_file() else None}".encode())
            if file.is_file():
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the arguments, because the library tokenizers does not pickle `encode_special_tokens`."""
        kind: Callable[..., BaseTokenizer] = type(self)  # subclasses accept a path of type str
        return partial(kind, str(self._path), **self._settings, **self._options), ()

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """Encode plain text without BOS and EOS."""

    @abstractmethod
    def _token_id(self, token: str) -> int | None:
        """Return the id of a token, given by its vocabulary entry or by its text."""

    def _stop_token_ids(self, names: Iterable[str]) -> set[int]:
        """Return the ids of the option `stop_tokens`.

        Args:
            names: Candidates to suggest for a misspelled token.

        Raises:
            ValueError: A token is not in the vocabulary.
        """
        stops = set[int]()
        for token in self._options.get("stop_tokens") or ():
            token_id = self._token_id(token)
            if token_id is None:
                raise unknown_token_error("stop_tokens", token, names)
            stops.add(token_id)
        return stops

    def _tokens_in_content(self) -> frozenset[str]:
        """Return the tokens of the option `special_tokens_in_content`.

        Raises:
            ValueError: A token is not a special token.
        """
        tokens = self._options.get("special_tokens_in_content") or ()
        for token in tokens:
            if token in self.special_tokens:
                continue
            if self._token_id(token) is None:
                raise unknown_token_error("special_tokens_in_content", token, self.special_tokens)
            raise ValueError(
                f"special_tokens_in_content: {token!r} is not a special token, so it does not need to be listed;"
                " remove it"
            )
        return frozenset(tokens)

    def _files(self) -> list[Path]:
        """Return the files of the vocabulary."""
        return [self._path]

    def _not_in_vocabulary(self, name: str, text: str | None) -> ValueError:
        """Return the error for a special token of the configuration that is not in the vocabulary."""
        return ValueError(
            f"{self._config.folder}/tokenizer_config.json: {name} is {text!r}, which is not in the vocabulary"
            f" of {self._path.name}"
        )
