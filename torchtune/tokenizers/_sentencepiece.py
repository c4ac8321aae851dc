"""SentencePiece tokenizers: tokenizer.model."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from torchtune.tokenizers._base import BaseTokenizer
from torchtune.tokenizers._config import AddedToken, TokenizerConfig, tokenizer_file
from torchtune.tokenizers._options import TokenizerOptions
from torchtune.tokenizers._sentencepiece_model import as_control, without_space_prefix

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


class SentencePieceTokenizer(BaseTokenizer):
    """A SentencePiece model (arXiv 1808.06226), as in Llama 2, Mistral, Gemma and Phi-3.

    Its special tokens are the model's control pieces, the tokens that a tokenizer_config.json or added_tokens.json next
    to it adds or declares, and `special_tokens`. In plain text, they are encoded as text unless the options specify
    otherwise.

    Args:
        path: A tokenizer.model, or its folder. A tokenizer_config.json next to it may contain a chat template and
            further special tokens.
        special_tokens: Pieces that are special even though the model treats them as text, such as Gemma's
            `<start_of_turn>`. Pieces that the model does not have are ignored.
        **options: Options that all tokenizers accept.

    Raises:
        FileNotFoundError: tokenizer.model does not exist.
        ValueError: The file is damaged, has no end-of-sequence token, or an option has no effect.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        special_tokens: Sequence[str] = (),
        **options: Unpack[TokenizerOptions],
    ) -> None:
        file = tokenizer_file(path, "tokenizer.model")
        config = TokenizerConfig.for_file(file)
        super().__init__(file, config, options, special_tokens=tuple(special_tokens))
        added = config.added_tokens()
        special = {text for text, token in added.items() if token.special}
        self._model, self._inner = self._load({*special, *special_tokens, *config.special_texts()})
        n = self._model.vocab_size()
        controls = {self._model.id_to_piece(i): i for i in range(n) if self._model.is_control(i)}
        self.special_tokens = {**controls, **{text: added[text].id for text in special}}
        self.vocab_size = max([n, *(token.id + 1 for token in added.values())])
        self.unknown_id = self._model.unk_id()
        eos_id = self._id("eos_token", self._model.eos_id())
        if eos_id is None:
            raise ValueError(f"{self._path} has no end-of-sequence token")
        self.eos_id = eos_id
        pad_id = self._id("pad_token", self._model.pad_id())
        self.pad_id = eos_id if pad_id is None else pad_id
        bos_id = self._id("bos_token", self._model.bos_id())
        self.bos_id = bos_id if config.values.get("add_bos_token", True) else None

        # Tokens outside the model's vocabulary; the special ones are recognized in templates only.
        outside = {text: token for text, token in added.items() if token.id >= n}
        self._outside = {token.id: text for text, token in outside.items()}
        self.content_tokens = self._tokens_in_content()
        self.stop_ids = frozenset(
            {eos_id, *config.eos_ids(), *self._stop_token_ids([*self.special_tokens, *outside])}
        )

        in_template = {text: AddedToken(i) for text, i in controls.items()}
        in_template |= {text: added[text] for text in special}
        in_text = {text: token for text, token in outside.items() if not token.special}
        in_content = {text: in_template[text] for text in self.content_tokens}
        self._in_template = _TokenFinder({**in_template, **in_text})
        self._in_text = _TokenFinder(in_text) if in_text else None
        self._in_content = _TokenFinder({**in_text, **in_content})
        self._outside |= {token.id: text for text, token in in_content.items()}
        self._adds_space_to_every_segment = config.adds_space_to_every_segment()

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered; special tokens are recognized, and no token is added.

        The model prepends a space to text, even after a special token, as in the training of Llama 2. If there is a
        tokenizer_config.json, the model does so after special tokens only if that file contains `"legacy": true`.

        Args:
            text: The text.
            plain: Start and end, in characters, of the spans in which special tokens are encoded as text.
        """
        return self._split(text, self._in_template, plain)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids into text; special tokens other than `content_tokens` and unknown ids are skipped.

        As in transformers, a leading space is removed only from the first text.
        """
        n = self._model.vocab_size()
        special = {i for text, i in self.special_tokens.items() if text not in self.content_tokens}
        visible = [i for i in ids if (0 <= i < n or i in self._outside) and i not in special]
        parts: list[str] = []
        start = 0
        for end, i in enumerate([*visible, None]):
            if i is None or i in self._outside:
                model = self._inner if start else self._model
                parts += [model.decode(visible[start:end]), *([] if i is None else [self._outside[i]])]
                start = end + 1
        return "".join(parts)

    def _encode(self, text: str) -> list[int]:
        has_content_tokens = any(token in text for token in self.content_tokens)
        tokens = self._in_content if has_content_tokens else self._in_text
        if tokens is not None:
            return self._split(text, tokens)
        ids: list[int] = self._model.encode(text)
        return ids

    def _load(self, special: Collection[str]) -> "tuple[SentencePieceProcessor, SentencePieceProcessor]":
        """Load the model twice: unchanged, and without the space that it prepends to texts."""
        from sentencepiece import SentencePieceProcessor

        full, inner = SentencePieceProcessor(), SentencePieceProcessor()
        model = self._path.read_bytes()
        try:
            full.LoadFromSerializedProto(model)
            unknown = full.id_to_piece(full.unk_id())  # may also be the padding token
            model = as_control(model, {*special} - {unknown})
            full.LoadFromSerializedProto(model)
            inner.LoadFromSerializedProto(without_space_prefix(model))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self._path} is not a SentencePiece model, or is damaged; download it again"
            ) from error
        return full, inner

    def _token_id(self, token: str) -> int | None:
        special_and_added = {**self.special_tokens, **{text: i for i, text in self._outside.items()}}
        token_id = special_and_added.get(token, self._model.piece_to_id(token))
        if token_id == self.unknown_id and token != self._model.id_to_piece(token_id):
            ids = self._inner.encode(token)
            token_id = ids[0] if len(ids) == 1 else token_id
        return None if token_id == self.unknown_id else int(token_id)

    def _id(self, name: str, model_id: int) -> int | None:
        """Return a special token's id, from the configuration or, if it has none, from the model."""
        text = self._config.token(name)
        if text is None:
            return model_id if model_id >= 0 else None
        if text in self.special_tokens:
            return self.special_tokens[text]
        unknown = self._model.unk_id()
        if text == self._model.id_to_piece(unknown):
            return unknown
        raise self._not_in_vocabulary(name, text)

    def _split(self, text: str, tokens: "_TokenFinder", plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode the parts between the tokens separately."""
        ids: list[int] = []
        position = 0
        for start, end, number in tokens.find(text):
            if not any(start < e and s < end for s, e in plain):
                ids += [*self._encode_part(text[position:start], position), number]
                position = end
        return ids + self._encode_part(text[position:], position)

    def _encode_part(self, text: str, position: int) -> list[int]:
        is_first = position == 0 or self._adds_space_to_every_segment
        model = self._model if is_first and not text.startswith(" ") else self._inner
        ids: list[int] = model.encode(text)
        return ids


class _TokenFinder:
    """Finds tokens in texts, longest first, including the white space that belongs to each token."""

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
        """Yield the start, end and id of each match."""
        for match in self._pattern.finditer(text):
            assert match.lastindex is not None
            yield *match.span(), self._ids[match[match.lastindex]]
