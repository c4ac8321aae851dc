"""What tokenizers of every kind have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchtune.data import ChatTemplate
from torchtune.tokenizers._chat_templates import MORE_CHAT_TEMPLATES, read_chat_template
from torchtune.tokenizers._config import TokenizerConfig
from torchtune.tokenizers._files import SIDE_FILES
from torchtune.tokenizers._options import TokenizerOptions, check_options, options_text, unknown_token
from torchtune.tokenizers._special_ids import GENERATION_CONFIG


class AnyTokenizer(ABC):
    """A tokenizer that was loaded from a file, of whichever kind.

    Args:
        path: The file.
        config: What the files next to it say.
        options: Options of the tokenizer.
        **settings: The arguments of the subclass other than the path and the options, by name.

    Raises:
        TypeError: there is no such option.
        ValueError: an option has no effect, or a value that it does not take.
    """

    vocab_size: int
    special_tokens: Mapping[str, int]
    content_tokens: frozenset[str]
    """Special tokens that texts may contain."""
    unknown_id: int | None
    """What stands for text that no token can write; None where there is no such text."""
    bos_id: int | None
    """None also for a model that has such a token but begins no text with it, as SmolLM2."""
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
        """Encode plain text; a special token spelt out in it stays text, unless it is one of `content_tokens`.

        Args:
            text: What to encode.
            add_bos: Put `bos_id` first; without effect where it is None.
            add_eos: Put `eos_id` last.
        """
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        return [*bos, *self._encode(text), *([self.eos_id] if add_eos else [])]

    @abstractmethod
    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered: its special tokens become their ids, none are added.

        Args:
            text: What to encode.
            plain: Where parts of it begin and end, in characters, in which special tokens stay text.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, leaving out special tokens other than `content_tokens`."""

    def fingerprint(self) -> str:
        """Return a digest of all that encoding depends on."""
        settings = (
            type(self).__name__,
            *self._settings.items(),
            options_text(self._options),
            self.chat_template,
        )
        digest = hashlib.sha256(repr(settings).encode())
        folder = self._path.parent
        side_files = [folder / name for name in (*SIDE_FILES, GENERATION_CONFIG, "config.json")]
        templates = sorted((folder / MORE_CHAT_TEMPLATES).glob("*.jinja"))
        for file in (*self._files(), *side_files, *templates):
            digest.update(f"{file.name} {file.stat().st_size if file.is_file() else None}".encode())
            if file.is_file():
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments alone: the libraries do not pickle which special tokens are to stay text."""
        kind: Callable[..., AnyTokenizer] = type(self)  # Its path is a text.
        return partial(kind, str(self._path), **self._settings, **self._options), ()

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """Encode plain text without anything around it."""

    @abstractmethod
    def _find(self, token: str) -> int | None:
        """Return the id of a token, which is named as in the vocabulary or by the text that it stands for."""

    def _stops(self, names: Iterable[str]) -> set[int]:
        """Return the ids of the option `stop_tokens`.

        Args:
            names: Tokens to suggest for a misspelt one.

        Raises:
            ValueError: one of them is not a token of the vocabulary.
        """
        stops = set[int]()
        for token in self._options.get("stop_tokens") or ():
            number = self._find(token)
            if number is None:
                raise unknown_token("stop_tokens", token, names)
            stops.add(number)
        return stops

    def _tokens_in_content(self) -> frozenset[str]:
        """Return the tokens of the option `special_tokens_in_content`.

        Raises:
            ValueError: one of them is not a special token.
        """
        tokens = self._options.get("special_tokens_in_content") or ()
        for token in tokens:
            if token in self.special_tokens:
                continue
            if self._find(token) is None:
                raise unknown_token("special_tokens_in_content", token, self.special_tokens)
            raise ValueError(
                f"special_tokens_in_content: {token!r} is not a special token, so that any text may contain it already;"
                " leave it out"
            )
        return frozenset(tokens)

    def _files(self) -> list[Path]:
        """Return the files of the vocabulary."""
        return [self._path]

    def _not_in_vocabulary(self, name: str, text: str | None) -> ValueError:
        """Return the error of a special token, known by its name, that the configuration spells as no token is."""
        return ValueError(
            f"{self._config.folder}/tokenizer_config.json: {name} is {text!r}, which is not in the vocabulary"
            f" of {self._path.name}"
        )
