"""Tokenizers of the SentencePiece kind: a tokenizer.model."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchtune.data import ChatTemplate
from torchtune.models._sentencepiece_model import as_control, without_space_prefix
from torchtune.models._tokenizer_config import AddedToken, TokenizerConfig, fingerprint_of, tokenizer_file

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


class SentencePieceTokenizer:
    """A SentencePiece model (arXiv 1808.06226), as Llama 2, Mistral, Gemma and Phi-3 have.

    Its special tokens are the model's own control pieces, those that a tokenizer_config.json or added_tokens.json
    beside it adds, and the given ones. In plain text they all stay text.

    Args:
        path: A tokenizer.model, or the folder that holds it. A tokenizer_config.json beside it may hold
            a chat template and further special tokens.
        special_tokens: Pieces that are special although the model takes them for text, such as Gemma's
            `<start_of_turn>`. Those that it does not have are passed over.
        stop_tokens: Special tokens that end an answer, besides the one that ends a text.

    Raises:
        FileNotFoundError: there is no tokenizer.model.
        ValueError: it is damaged, or has no end-of-sequence token.
    """

    content_tokens: frozenset[str] = frozenset()

    def __init__(
        self, path: str, special_tokens: Sequence[str] = (), stop_tokens: Sequence[str] = ()
    ) -> None:
        self._path = tokenizer_file(path, "tokenizer.model")
        self._arguments = str(self._path), tuple(special_tokens), tuple(stop_tokens)
        config = TokenizerConfig.beside(self._path)
        added = config.added_tokens()
        special = {text for text, token in added.items() if token.special}
        self._model, self._inner = self._load(
            {*special, *special_tokens, *stop_tokens, *config.named_tokens()}
        )
        n = self._model.vocab_size()
        controls = {self._model.id_to_piece(i): i for i in range(n) if self._model.is_control(i)}
        self.special_tokens: dict[str, int] = {**controls, **{text: added[text].id for text in special}}
        self.vocab_size: int = max([n, *(token.id + 1 for token in added.values())])
        self.chat_template: ChatTemplate | None = config.chat_template()
        self.unknown_id: int | None = self._model.unk_id()
        """What stands for text that no piece can write."""
        eos_id = self._id(config, "eos_token", self._model.eos_id())
        if eos_id is None:
            raise ValueError(f"{self._path} has no end-of-sequence token")
        self.eos_id: int = eos_id
        pad_id = self._id(config, "pad_token", self._model.pad_id())
        self.pad_id: int = eos_id if pad_id is None else pad_id
        bos_id = self._id(config, "bos_token", self._model.bos_id())
        self.bos_id: int | None = bos_id if config.values.get("add_bos_token", True) else None
        stops = {self.special_tokens[token] for token in stop_tokens if token in self.special_tokens}
        self.stop_ids: frozenset[int] = config.stop_ids() | {eos_id} | stops

        # Tokens that the model knows nothing of; of these, the special ones are found in templates only.
        outside = {text: token for text, token in added.items() if token.id >= n}
        in_text = {text: token for text, token in outside.items() if not token.special}
        in_template = {text: AddedToken(i) for text, i in controls.items()}
        self._outside = {token.id: text for text, token in outside.items()}
        self._in_text = _Tokens(in_text) if in_text else None
        self._in_template = _Tokens({**in_template, **{text: added[text] for text in special}, **in_text})
        self._prefixes_everywhere = config.prefixes_everywhere()

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encode plain text; a special token spelt out in it stays plain text.

        Args:
            text: What to encode.
            add_bos: Put `bos_id` first; without effect where it is None.
            add_eos: Put `eos_id` last.
        """
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        ids = self._model.encode(text) if self._in_text is None else self._split(text, self._in_text)
        return [*bos, *ids, *([self.eos_id] if add_eos else [])]

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered: its special tokens become their ids, none are added.

        Args:
            text: What to encode.
            plain: Where parts of it begin and end, in characters, in which special tokens stay text.

        The model puts a space before a text, and so before what follows a special token, as Llama 2 was taught; not
        so where a tokenizer_config.json stands beside it, unless that says `"legacy": true`.
        """
        return self._split(text, self._in_template, plain)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, leaving out special tokens, and ids that an embedding has beyond the tokenizer's.

        The space that the model puts before a text goes before the first word alone, as transformers has it.
        """
        n, special = self._model.vocab_size(), {*self.special_tokens.values()}
        kept = [i for i in ids if (0 <= i < n or i in self._outside) and i not in special]
        parts: list[str] = []
        start = 0
        for end, i in enumerate([*kept, None]):
            if i is None or i in self._outside:
                model = self._inner if start else self._model
                parts += [model.decode(kept[start:end]), *([] if i is None else [self._outside[i]])]
                start = end + 1
        return "".join(parts)

    def fingerprint(self) -> str:
        """Return a digest of all that encoding depends on."""
        return fingerprint_of(self._path, *self._arguments[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made from."""
        return SentencePieceTokenizer, self._arguments

    def _load(self, special: Collection[str]) -> "tuple[SentencePieceProcessor, SentencePieceProcessor]":
        """Load the model, and once more so that it puts no space before a text."""
        from sentencepiece import SentencePieceProcessor

        whole, inner = SentencePieceProcessor(), SentencePieceProcessor()
        model = self._path.read_bytes()
        try:
            whole.LoadFromSerializedProto(model)
            unknown = whole.id_to_piece(
                whole.unk_id()
            )  # stays what it is, although it may fill batches up as well
            model = as_control(model, {*special} - {unknown})
            whole.LoadFromSerializedProto(model)
            inner.LoadFromSerializedProto(without_space_prefix(model))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self._path} is not a SentencePiece model, or is damaged; fetch it again"
            ) from error
        return whole, inner

    def _id(self, config: TokenizerConfig, name: str, of_model: int) -> int | None:
        """Find a special token's id: as configured, or else the model's own."""
        text = config.token(name)
        if text is None:
            return of_model if of_model >= 0 else None
        if text in self.special_tokens:
            return self.special_tokens[text]
        unknown = self._model.unk_id()
        if text == self._model.id_to_piece(unknown):
            return unknown
        raise ValueError(
            f"{config.folder}/tokenizer_config.json: {name} is {text!r}, which is not in the vocabulary"
            f" of {self._path.name}"
        )

    def _split(self, text: str, tokens: "_Tokens", plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode what stands between tokens, each as a text of its own."""
        ids: list[int] = []
        at = 0
        for start, end, number in tokens.find(text):
            if not any(start < e and s < end for s, e in plain):
                ids += [*self._part(text[at:start], at), number]
                at = end
        return ids + self._part(text[at:], at)

    def _part(self, text: str, at: int) -> list[int]:
        is_first = at == 0 or self._prefixes_everywhere
        model = self._model if is_first and not text.startswith(" ") else self._inner
        ids: list[int] = model.encode(text)
        return ids


class _Tokens:
    """Tokens to be found in texts, the longest first, with the blanks that each swallows."""

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._ids = {text: token.id for text, token in tokens.items()}
        self._pattern = re.compile(
            "|".join(
                (r"\s*" if tokens[text].lstrip else "")
                + f"({re.escape(text)})"
                + (r"\s*" if tokens[text].rstrip else "")
                for text in sorted(tokens, key=len, reverse=True)
            )
        )

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield where each begins and ends, and its id."""
        for match in self._pattern.finditer(text):
            assert match.lastindex is not None
            yield *match.span(), self._ids[match[match.lastindex]]
