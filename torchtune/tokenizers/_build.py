"""Tokenizers of other formats as those of the `tokenizers` library, which a tokenizer.json holds.

How texts are split before byte-level merging is taken from the tokenizer.json of each model family, and goes by
the name that llama.cpp has for it (`tokenizer.ggml.pre`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""The words of cl100k (tiktoken's openai_public.py), except for its numbers."""


@frozen
class Split:
    """How a text is split into words before their bytes are merged."""

    pattern: str | None = None
    """Regular expression of a word; None: GPT-2's."""
    single_digits: bool = False
    """Whether digits are split off one by one first."""
    nfc: bool = False
    """Whether characters are composed (Unicode's NFC) first."""
    whole_words: bool = False
    """Whether a word that is itself a token is encoded as that token without merging its bytes."""
    adds_bos: bool = False
    """Whether texts begin with BOS where a GGUF file does not say."""


SPLITS = {
    "gpt-2": Split(),
    "smollm": Split(single_digits=True),
    "llama-bpe": Split(_WORDS % r"\p{N}{1,3}", whole_words=True, adds_bos=True),
    "dbrx": Split(_WORDS % r"\p{N}{1,3}"),
    "qwen2": Split(_WORDS % r"\p{N}", nfc=True),
}
"""By the names of llama.cpp (`src/llama-vocab.cpp`): GPT-2, SmolLM, Llama 3, OLMo 2 and Phi-4, Qwen 2 and 3."""


def byte_level(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], split: Split, *, space_prefix: bool = False
) -> "Backend":
    """Build a tokenizer that merges the bytes of words.

    Args:
        vocabulary: Ids by token, whose bytes are written as GPT-2's printable characters.
        merges: Pairs of tokens, the first to be merged first.
        split: How texts are split into words.
        space_prefix: Put a space before every text.

    Raises:
        ValueError: a merge names something that is not a token.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split.whole_words)
    except Exception as error:  # The library raises nothing narrower.
        raise ValueError(f"its tokenizer's merges do not fit its tokens: {error}") from error
    backend = Backend(model)
    before: list[pre_tokenizers.PreTokenizer] = []
    if split.single_digits:
        before.append(pre_tokenizers.Digits(individual_digits=True))
    if split.pattern is not None:
        before.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=space_prefix, use_regex=split.pattern is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, level])
    backend.decoder = decoders.ByteLevel()
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    return backend


def from_ranks(ranks: Mapping[bytes, int], split: Split, special_tokens: Sequence[str] = ()) -> "Backend":
    """Build a byte-level tokenizer out of ranks, as tiktoken keeps them.

    tiktoken joins those two neighbours whose joint bytes have the lowest rank. Merging pairs in the order of their
    joint rank does the same, where every way to cut a token into two tokens is such a pair.

    Args:
        ranks: The rank of each token.
        split: How texts are split into words.
        special_tokens: Special tokens with the ids from 0 on; the ranks follow them.

    Raises:
        ValueError: a text that spells a special token would be encoded as that token.
    """
    letters = _byte_letters()
    written = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    vocabulary = {token: i for i, token in enumerate(special_tokens)}
    clashes = [token for token in special_tokens if token in written]
    vocabulary |= {token: rank + len(special_tokens) for token, rank in written.items()}
    backend = byte_level(vocabulary, _merges(written), split)
    clashes += [token for token in special_tokens if split.whole_words and _is_word(backend, token)]
    if clashes:
        raise ValueError(f"the special token {clashes[0]!r} is a token of ordinary text as well")
    add_tokens(backend, ((token, True) for token in special_tokens))
    return backend


def _is_word(backend: "Backend", token: str) -> bool:
    """Tell whether a token is split off as one word, which then is looked up in the vocabulary."""
    words = backend.pre_tokenizer.pre_tokenize_str(token)
    return [word for word, _ in words] == [token]


def from_pieces(
    pieces: Sequence[str], scores: Sequence[float], *, unknown: str | None, space_prefix: bool
) -> "Backend":
    """Build a tokenizer out of SentencePiece's BPE pieces (arXiv 1808.06226) and their scores.

    Args:
        pieces: By id. Bytes that no piece has are written as `<0x00>` to `<0xFF>`.
        scores: The higher a piece's score, the earlier its parts are merged.
        unknown: The piece for what cannot be written otherwise.
        space_prefix: Put a space before every text.

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
    except Exception as error:  # The library raises nothing narrower.
        raise ValueError(f"the pieces of its tokenizer are inconsistent: {error}") from error
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
    """Let a tokenizer find tokens in texts before these are split; each comes with whether it is special."""
    from tokenizers import AddedToken

    backend.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in tokens])


def begin_with(backend: "Backend", token: str) -> None:
    """Let a tokenizer put a special token of its own before every text."""
    from tokenizers import processors

    special_tokens = [(token, backend.token_to_id(token))]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=special_tokens
    )


def _merges(ranks: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return every way to cut a piece into two pieces, those of lower rank first."""
    found = []
    for piece in sorted(ranks, key=ranks.__getitem__):
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [cut for cut in cuts if cut[0] in ranks and cut[1] in ranks]
        # Of two cuts of a piece, training chose the one with the more frequent parts.
        found += sorted(known, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
    return found


def _byte_letters() -> dict[int, str]:
    """Return the characters that GPT-2's vocabulary writes bytes as (`bytes_to_unicode` of its encoder.py)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}
