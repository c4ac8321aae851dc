"""Tokenizers that run on the `tokenizers` library."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.data import ChatTemplate, unused_mark
from torchtune.models._tokenizer_config import TokenizerConfig, fingerprint_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class BackendTokenizer:
    """What all tokenizers of that library have in common; a subclass reads its own kind of file.

    Args:
        path: The file.
        config: What stands beside it.

    Raises:
        ValueError: the file is damaged, or a special token is not in the vocabulary.
    """

    content_tokens: frozenset[str] = frozenset()

    def __init__(self, path: Path, config: TokenizerConfig) -> None:
        self._path = path
        self._marked: dict[str, _Marked] = {}
        self._plain = self._read()
        self._plain.encode_special_tokens = True  # To encode them as the text they are.
        vocabulary = self._plain.get_vocab()
        if not vocabulary:
            raise ValueError(f"{path} holds no tokens; fetch it again")
        self.vocab_size: int = 1 + max(vocabulary.values())
        added = self._plain.get_added_tokens_decoder()
        self.special_tokens: dict[str, int] = {t.content: i for i, t in added.items() if t.special}
        self.chat_template: ChatTemplate | None = config.chat_template()
        unknown = config.token("unk_token")
        self.unknown_id: int | None = None if unknown is None else self._plain.token_to_id(unknown)
        """What stands for text that no token can write; None where there is no such text."""
        # GPT-2's tokenizer_config.json names none.
        eos_id = config.eos_id() if config.token("eos_token") is None else None
        self.eos_id: int = self._id(config, "eos_token") if eos_id is None else eos_id
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
            self._marked[mark] = _Marked(self._read(), mark)
        return self._marked[mark].encode(text, plain)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, leaving special tokens out."""
        return self._special.decode(list(ids), skip_special_tokens=True)

    def fingerprint(self) -> str:
        """Return a digest of all that encoding depends on."""
        return fingerprint_of(self._path, type(self).__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: the library forgets on the way that special tokens are to stay text."""
        return type(self), (str(self._path),)

    def _read(self) -> "Backend":
        """Read the file."""
        raise NotImplementedError

    @cached_property
    def _special(self) -> "Backend":
        """The same tokenizer, which finds special tokens in what it reads."""
        return self._read()

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
        """Tell whether this model's texts begin with BOS: as configured, or as the file itself does."""
        if "add_bos_token" in config.values:
            return bool(config.values["add_bos_token"])
        bos = config.token("bos_token")
        return bos is not None and self._special.encode("a").tokens[:1] == [bos]


class _Marked:
    """A tokenizer whose special tokens are spelt so as a text does not, to be found where they are meant only.

    Args:
        backend: The tokenizer.
        mark: What stands before and behind each special token, and nowhere in the texts.
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
        self._backend.add_tokens(
            [
                AddedToken(
                    self._spelt(token.content),
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                )
                for token in added.values()
                if token.special
            ]
        )
        # Added tokens that the model does not know are numbered anew, the plain ones too.
        spelt = {
            i: self._spelt(token.content) if token.special else token.content for i, token in added.items()
        }
        self._ids = {self._backend.token_to_id(text): i for i, text in spelt.items()}
        texts = sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)))

    def encode(self, text: str, plain: Sequence[tuple[int, int]]) -> list[int]:
        parts, at = [], 0
        for match in self._pattern.finditer(text):
            if not any(match.start() < end and start < match.end() for start, end in plain):
                parts += [text[at : match.start()], self._spelt(match[0])]
                at = match.end()
        ids = self._backend.encode("".join([*parts, text[at:]]), add_special_tokens=False).ids
        return [self._ids.get(i, i) for i in ids]

    def _spelt(self, token: str) -> str:
        return f"{self._mark}{token}{self._mark}"
