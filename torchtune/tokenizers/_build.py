"""Convert other tokenizer formats to the `tokenizers` library, whose format is tokenizer.json.

The splitting of text before byte-level merging follows the tokenizer.json of each model family; the splits have the
names of llama.cpp (`tokenizer.ggml.pre`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Word pattern of cl100k (tiktoken's openai_public.py); `%s` is replaced by the pattern of numbers."""


@frozen
class Split:
    """A method of splitting text into words, whose bytes are then merged."""

    pattern: str | None = None
    """Regular expression of a word; None: GPT-2's."""
    single_digits: bool = False
    """Whether single digits are split off first."""
    nfc: bool = False
    """Whether characters are first composed (Unicode NFC)."""
    whole_words: bool = False
    """Whether a word that is a token is encoded as that token, without merging its bytes."""
    adds_bos: bool = False
    """Whether plain text begins with BOS if a GGUF file does not define it."""


SPLITS = {
    "gpt-2": Split(),
    "smollm": Split(single_digits=True),
    "llama-bpe": Split(_WORDS % r"\p{N}{1,3}", whole_words=True, adds_bos=True),
    "dbrx": Split(_WORDS % r"\p{N}{1,3}"),
    "qwen2": Split(_WORDS % r"\p{N}", nfc=True),
}
"""Splits by llama.cpp's names (`src/llama-vocab.cpp`): GPT-2, SmolLM, Llama 3, OLMo 2 and Phi-4, Qwen 2 and 3."""


def byte_level(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], split: Split, *, space_prefix: bool = False
) -> "Backend":
    """Build a byte-level BPE tokenizer.

    Args:
        vocabulary: Ids by token; bytes are represented by GPT-2's printable characters.
        merges: Pairs of tokens to merge, in order of priority.
        split: The method of splitting texts into words.
        space_prefix: Prepend a space to every text.

    Raises:
        ValueError: A merge contains a string that is not a token.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split.whole_words)
    except Exception as error:  # the library raises no narrower type
        raise ValueError(f"the tokenizer's merges do not match its vocabulary: {error}") from error
    backend = Backend(model)
    pre_tokenizer_steps: list[pre_tokenizers.PreTokenizer] = []
    if split.single_digits:
        pre_tokenizer_steps.append(pre_tokenizers.Digits(individual_digits=True))
    if split.pattern is not None:
        pre_tokenizer_steps.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=space_prefix, use_regex=split.pattern is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*pre_tokenizer_steps, level])
    backend.decoder = decoders.ByteLevel()
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    return backend


def from_ranks(ranks: Mapping[bytes, int], split: Split, special_tokens: Sequence[str] = ()) -> "Backend":
    """Build a byte-level tokenizer from the ranks of a tiktoken file.

    tiktoken repeatedly joins the two adjacent parts whose concatenation has the lowest rank. Merging pairs in the order
    of the rank of their concatenation is equivalent if every split of a token into two tokens is such a pair.

    Args:
        ranks: The rank of each token.
        split: The method of splitting texts into words.
        special_tokens: Special tokens, with ids starting at 0; the ranks follow them.

    Raises:
        ValueError: The plain text of a special token would be encoded as that token.
    """
    letters = _byte_letters()
    ranks_by_text = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    vocabulary = {token: i for i, token in enumerate(special_tokens)}
    clashes = [token for token in special_tokens if token in ranks_by_text]
    vocabulary |= {token: rank + len(special_tokens) for token, rank in ranks_by_text.items()}
    backend = byte_level(vocabulary, _merges(ranks_by_text), split)
    clashes += [token for token in special_tokens if split.whole_words and _is_word(backend, token)]
    if clashes:
        raise ValueError(f"the special token {clashes[0]!r} is also an ordinary token of the vocabulary")
    add_tokens(backend, ((token, True) for token in special_tokens))
    return backend


def _is_word(backend: "Backend", token: str) -> bool:
    """Return whether a token is split off as one word, which is then looked up in the vocabulary."""
    words = backend.pre_tokenizer.pre_tokenize_str(token)
    return [word for word, _ in words] == [token]


def from_pieces(
    pieces: Sequence[str], scores: Sequence[float], *, unknown: str | None, space_prefix: bool
) -> "Backend":
    """Build a tokenizer from SentencePiece BPE pieces (arXiv 1808.06226) and their scores.

    Args:
        pieces: Pieces in the order of their ids. Bytes outside all pieces become `<0x00>` to `<0xFF>`.
        scores: Scores of the pieces; parts of pieces with higher scores are merged first.
        unknown: The piece for text that the other pieces cannot represent.
        space_prefix: Prepend a space to every text.

    Raises:
        ValueError: `unknown` is not a piece.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    order = sorted(range(len(pieces)), key=lambda i: -scores[i])
    ranks = {pieces[i]: rank for rank, i in enumerate(order)}
    try:
        model = models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=_merges(ranks),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    except Exception as error:  # the library raises no narrower type
        raise ValueError(f"the tokenizer's pieces are inconsistent: {error}") from error
    backend = Backend(model)
    spaces = normalizers.Replace(" ", "▁")
    prefix = [normalizers.Prepend("▁")] if space_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, spaces])
    strip = [decoders.Strip(" ", 1, 0)] if space_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def add_tokens(backend: "Backend", tokens: Iterable[tuple[str, bool]]) -> None:
    """Add tokens that are recognized before texts are split; each is paired with whether it is special."""
    from tokenizers import AddedToken

    backend.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in tokens])


def prepend_token(backend: "Backend", token: str) -> None:
    """Prepend one of the tokenizer's special tokens to every text."""
    from tokenizers import processors

    special_tokens = [(token, backend.token_to_id(token))]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=special_tokens
    )


def _merges(ranks: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return all splits of a piece into two pieces, in the order of the pieces' ranks."""
    merges = []
    for piece in sorted(ranks, key=ranks.__getitem__):
        candidates = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        splits = [split for split in candidates if split[0] in ranks and split[1] in ranks]
        # If a piece can be split in several ways, training chose the split with the more frequent parts.
        merges += sorted(splits, key=lambda split: (ranks[split[0]], ranks[split[1]]))
    return merges


def _byte_letters() -> dict[int, str]:
    """Return the characters that represent bytes in GPT-2's vocabulary (`bytes_to_unicode` of its encoder.py)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}
