"""Tokenizers that are backed by the `tokenizers` library."""

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.data import unused_character
from torchtune.tokenizers._base import BaseTokenizer
from torchtune.tokenizers._build import add_tokens
from torchtune.tokenizers._config import TokenizerConfig
from torchtune.tokenizers._options import TokenizerOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class BackendTokenizer(BaseTokenizer):
    """Base class of tokenizers backed by the `tokenizers` library; each subclass reads a different file format.

    Args:
        path: The file.
        config: Contents of the configuration files next to it.
        options: Options of the tokenizer.
        **settings: Arguments of the subclass other than the path and the options, by name.

    Raises:
        ValueError: The file is damaged, a special token is not in the vocabulary, or an option has no effect.
    """

    def __init__(
        self, path: Path, config: TokenizerConfig, options: TokenizerOptions, **settings: Any
    ) -> None:
        super().__init__(path, config, options, **settings)
        self._marked: dict[str, _MarkedBackend] = {}
        self._plain = self._load()
        self._plain.encode_special_tokens = True  # spelled-out special tokens are ordinary text
        vocabulary = self._plain.get_vocab()
        if not vocabulary:
            raise ValueError(f"{path} has no tokens; download it again")
        self.vocab_size = 1 + max(vocabulary.values())
        unknown = config.token("unk_token")
        if (
            getattr(self._plain.model, "unk_token", unknown) is None
        ):  # a byte-level model can represent any text
            unknown = None
        self.unknown_id = None if unknown is None else self._plain.token_to_id(unknown)
        added = self._plain.get_added_tokens_decoder()
        self.special_tokens = {t.content: i for i, t in added.items() if t.special}
        self.content_tokens = self._tokens_in_content()
        if self.content_tokens:
            self._plain = _without_special_flags(self._plain, self.content_tokens)
        # GPT-2's tokenizer_config.json has no eos_token.
        ends = config.eos_ids() if config.token("eos_token") is None else []
        self.eos_id = ends[0] if ends else self._id("eos_token")
        self.pad_id = self.eos_id if config.token("pad_token") is None else self._id("pad_token")
        names = [token.content for token in added.values()]
        self.stop_ids = self._model_stop_ids() | {self.eos_id} | self._stop_token_ids(names)
        self.bos_id = self._id("bos_token") if self._adds_bos() else None

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered; special tokens are recognized, and no token is added.

        Args:
            text: The text.
            plain: Start and end, in characters, of the spans in which special tokens are encoded as text.
        """
        if not plain:
            return list(self._special.encode(text, add_special_tokens=False).ids)
        mark = unused_character([text])
        if mark not in self._marked:
            self._marked[mark] = _MarkedBackend(self._load(), mark)
        return self._marked[mark].encode(text, plain)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids into text; special tokens other than `content_tokens` are skipped."""
        return self._plain.decode(list(ids), skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    @abstractmethod
    def _read(self) -> "Backend":
        """Read the file."""

    def _model_stop_ids(self) -> frozenset[int]:
        """Return the ids that end an answer according to the model's files."""
        return frozenset(self._config.eos_ids())

    def _load(self) -> "Backend":
        """Read the file, and disable the truncation and padding that it may have stored."""
        backend = self._read()
        backend.no_truncation()
        backend.no_padding()
        return backend

    @cached_property
    def _special(self) -> "Backend":
        """The same tokenizer, but it recognizes special tokens in text."""
        return self._load()

    def _token_id(self, token: str) -> int | None:
        token_id = self._plain.token_to_id(token)
        if token_id is None:
            ids = self._plain.encode(token, add_special_tokens=False).ids
            token_id = ids[0] if len(ids) == 1 and ids[0] != self.unknown_id else None
        return token_id

    def _id(self, name: str) -> int:
        token = self._config.token(name)
        token_id = None if token is None else self._plain.token_to_id(token)
        if token_id is None:
            raise self._not_in_vocabulary(name, token)
        return token_id

    def _adds_bos(self) -> bool:
        """Return whether plain text begins with BOS, according to the configuration or, by default, the file."""
        if "add_bos_token" in self._config.values:
            return bool(self._config.values["add_bos_token"])
        bos = self._config.token("bos_token")
        return bos is not None and self._special.encode("a").tokens[:1] == [bos]


def add_configured_tokens(backend: "Backend", config: TokenizerConfig) -> None:
    """Add the tokens that the configuration adds or declares as special, as transformers does.

    A token that is in both the vocabulary and the configuration keeps its id from the vocabulary and gets its flags
    from the configuration.

    Raises:
        ValueError: A new token would get a different id from the one in the configuration.
    """
    existing = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    tokens = config.added_tokens()
    new_ids = {text: token.id for text, token in tokens.items() if backend.token_to_id(text) is None}
    backend_tokens = {text: token.backend(text) for text, token in tokens.items()}
    changed = {
        text
        for text, token in backend_tokens.items()
        if config.lists_added_tokens and repr(token) not in existing
    }
    backend.add_tokens(
        [token for text, token in backend_tokens.items() if text in new_ids or text in changed]
    )
    for text, token_id in new_ids.items():
        if backend.token_to_id(text) != token_id:
            raise ValueError(
                f"{config.folder}: {text!r} is added to the vocabulary with id {token_id}, but the next free id is"
                f" {backend.token_to_id(text)}; download the tokenizer again"
            )
    added_texts = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = [text for text in config.special_texts() if text not in added_texts]
    add_tokens(backend, [(text, True) for text in missing if backend.token_to_id(text) is not None])


def _without_special_flags(backend: "Backend", tokens: Collection[str]) -> "Backend":
    """Return a copy of a tokenizer in which some special tokens are ordinary added tokens."""
    from tokenizers import Tokenizer as Backend

    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in tokens
    copy = Backend.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    return copy


class _MarkedBackend:
    """A tokenizer that recognizes special tokens only between marks.

    Args:
        backend: The tokenizer.
        mark: A character that occurs nowhere in the text to encode; it is inserted before and after each special token.
    """

    def __init__(self, backend: "Backend", mark: str) -> None:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Backend

        self._mark = mark
        added = backend.get_added_tokens_decoder()
        state = json.loads(backend.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if not token["special"]]
        state["post_processor"] = None
        self._backend = Backend.from_str(json.dumps(state))
        special = [token for token in added.values() if token.special]
        self._backend.add_tokens(
            [
                AddedToken(
                    self._marked_text(token.content),
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                )
                for token in special
            ]
        )
        # All added tokens that are not in the model's vocabulary, special or not, get new ids.
        token_texts = {
            i: self._marked_text(token.content) if token.special else token.content
            for i, token in added.items()
        }
        self._ids = {self._backend.token_to_id(text): i for i, text in token_texts.items()}
        texts = sorted((token.content for token in special), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)))

    def encode(self, text: str, plain: Sequence[tuple[int, int]]) -> list[int]:
        parts = []
        position = 0
        for match in self._pattern.finditer(text):
            if not any(match.start() < end and start < match.end() for start, end in plain):
                parts += [text[position : match.start()], self._marked_text(match[0])]
                position = match.end()
        ids = self._backend.encode("".join([*parts, text[position:]]), add_special_tokens=False).ids
        return [self._ids.get(i, i) for i in ids]

    def _marked_text(self, token: str) -> str:
        return f"{self._mark}{token}{self._mark}"
