"""Tokenizers that run on the `tokenizers` library."""

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.data import unused_mark
from torchtune.tokenizers._any import AnyTokenizer
from torchtune.tokenizers._build import add_tokens
from torchtune.tokenizers._config import TokenizerConfig
from torchtune.tokenizers._options import TokenizerOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class BackendTokenizer(AnyTokenizer):
    """What all tokenizers of that library have in common; a subclass reads its own kind of file.

    Args:
        path: The file.
        config: What the files next to it say.
        options: Options of the tokenizer.
        **settings: The arguments of the subclass other than the path and the options, by name.

    Raises:
        ValueError: the file is damaged, a special token is not in the vocabulary, or an option has no effect.
    """

    def __init__(
        self, path: Path, config: TokenizerConfig, options: TokenizerOptions, **settings: Any
    ) -> None:
        super().__init__(path, config, options, **settings)
        self._marked: dict[str, _Marked] = {}
        self._plain = self._load()
        self._plain.encode_special_tokens = True  # To encode them as the text they are.
        vocabulary = self._plain.get_vocab()
        if not vocabulary:
            raise ValueError(f"{path} holds no tokens; fetch it again")
        self.vocab_size = 1 + max(vocabulary.values())
        unknown = config.token("unk_token")
        if getattr(self._plain.model, "unk_token", unknown) is None:  # Bytes write every text.
            unknown = None
        self.unknown_id = None if unknown is None else self._plain.token_to_id(unknown)
        added = self._plain.get_added_tokens_decoder()
        self.special_tokens = {t.content: i for i, t in added.items() if t.special}
        self.content_tokens = self._tokens_in_content()
        if self.content_tokens:
            self._plain = _not_special(self._plain, self.content_tokens)
        # GPT-2's tokenizer_config.json names none.
        ends = config.ends() if config.token("eos_token") is None else []
        self.eos_id = ends[0] if ends else self._id("eos_token")
        self.pad_id = self.eos_id if config.token("pad_token") is None else self._id("pad_token")
        names = [token.content for token in added.values()]
        self.stop_ids = self._own_stop_ids() | {self.eos_id} | self._stops(names)
        self.bos_id = self._id("bos_token") if self._adds_bos() else None

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered: its special tokens become their ids, none are added.

        Args:
            text: What to encode.
            plain: Where parts of it begin and end, in characters, in which special tokens stay text.
        """
        if not plain:
            return list(self._special.encode(text, add_special_tokens=False).ids)
        mark = unused_mark([text])
        if mark not in self._marked:
            self._marked[mark] = _Marked(self._load(), mark)
        return self._marked[mark].encode(text, plain)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, leaving out special tokens other than `content_tokens`."""
        return self._plain.decode(list(ids), skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    @abstractmethod
    def _read(self) -> "Backend":
        """Read the file."""

    def _own_stop_ids(self) -> frozenset[int]:
        """Return the ids that end an answer according to the model's own files."""
        return frozenset(self._config.ends())

    def _load(self) -> "Backend":
        """Read the file, without the lengths that its last user cut and filled texts to."""
        backend = self._read()
        backend.no_truncation()
        backend.no_padding()
        return backend

    @cached_property
    def _special(self) -> "Backend":
        """The same tokenizer, which finds special tokens in what it reads."""
        return self._load()

    def _find(self, token: str) -> int | None:
        number = self._plain.token_to_id(token)
        if number is None:
            ids = self._plain.encode(token, add_special_tokens=False).ids
            number = ids[0] if len(ids) == 1 and ids[0] != self.unknown_id else None
        return number

    def _id(self, name: str) -> int:
        token = self._config.token(name)
        number = None if token is None else self._plain.token_to_id(token)
        if number is None:
            raise self._not_in_vocabulary(name, token)
        return number

    def _adds_bos(self) -> bool:
        """Tell whether this model's texts begin with BOS: as configured, or as the file itself does."""
        if "add_bos_token" in self._config.values:
            return bool(self._config.values["add_bos_token"])
        bos = self._config.token("bos_token")
        return bos is not None and self._special.encode("a").tokens[:1] == [bos]


def add_configured_tokens(backend: "Backend", config: TokenizerConfig) -> None:
    """Let a tokenizer find the tokens that its configuration adds or names as special, as transformers does.

    Where both have a token, its id is the vocabulary's and its flags are the configuration's.

    Raises:
        ValueError: a token that is not in the vocabulary would get another id than the configuration's.
    """
    known = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    tokens = config.added_tokens()
    new = {text: token.id for text, token in tokens.items() if backend.token_to_id(text) is None}
    listed = {text: token.backend(text) for text, token in tokens.items()}
    changed = {
        text for text, token in listed.items() if config.lists_added_tokens and repr(token) not in known
    }
    backend.add_tokens([token for text, token in listed.items() if text in new or text in changed])
    for text, number in new.items():
        if backend.token_to_id(text) != number:
            raise ValueError(
                f"{config.folder}: {text!r} is added to the vocabulary with id {number}, but the next free id is"
                f" {backend.token_to_id(text)}; fetch the tokenizer again"
            )
    found = {token.content for token in backend.get_added_tokens_decoder().values()}
    named = [text for text in config.special_texts() if text not in found]
    add_tokens(backend, [(text, True) for text in named if backend.token_to_id(text) is not None])


def _not_special(backend: "Backend", tokens: Collection[str]) -> "Backend":
    """Return a copy of a tokenizer that finds some of its special tokens in any text."""
    from tokenizers import Tokenizer as Backend

    written = json.loads(backend.to_str())
    for token in written["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in tokens
    changed = Backend.from_str(json.dumps(written))
    changed.encode_special_tokens = True
    return changed


class _Marked:
    """A tokenizer whose special tokens are written between marks, so that only the marked ones are found.

    Args:
        backend: The tokenizer.
        mark: Stands before and after each special token, and nowhere in the texts.
    """

    def __init__(self, backend: "Backend", mark: str) -> None:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Backend

        self._mark = mark
        added = backend.get_added_tokens_decoder()
        written = json.loads(backend.to_str())
        written["added_tokens"] = [token for token in written["added_tokens"] if not token["special"]]
        written["post_processor"] = None
        self._backend = Backend.from_str(json.dumps(written))
        special = [token for token in added.values() if token.special]
        self._backend.add_tokens(
            [
                AddedToken(
                    self._spelt(token.content),
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                )
                for token in special
            ]
        )
        # Added tokens that the model does not know are numbered anew, the plain ones too.
        spelt = {
            i: self._spelt(token.content) if token.special else token.content for i, token in added.items()
        }
        self._ids = {self._backend.token_to_id(text): i for i, text in spelt.items()}
        texts = sorted((token.content for token in special), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)))

    def encode(self, text: str, plain: Sequence[tuple[int, int]]) -> list[int]:
        parts = []
        at = 0
        for match in self._pattern.finditer(text):
            if not any(match.start() < end and start < match.end() for start, end in plain):
                parts += [text[at : match.start()], self._spelt(match[0])]
                at = match.end()
        ids = self._backend.encode("".join([*parts, text[at:]]), add_special_tokens=False).ids
        return [self._ids.get(i, i) for i in ids]

    def _spelt(self, token: str) -> str:
        return f"{self._mark}{token}{self._mark}"
