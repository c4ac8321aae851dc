"""Streamed pieces concatenate to the decoded answer and end before stop strings."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.models.tiny import TEXT, tiny_tokenizer, tokenizer_config, write
from tests.tokenizers.test_sentencepiece_tokenizer import train
from tests.tokenizers.texts import TEXTS
from torchtune.data import Tokenizer
from torchtune.generation import AnswerText, decode_stream
from torchtune.tokenizers import HFTokenizer, SentencePieceTokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def write_llama2_tokenizer(folder: Path) -> HFTokenizer:
    """Write a tokenizer.json like Llama 2's, which maps spaces to `▁` and unknown characters to bytes."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, trainers

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Backend(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    trained.train_from_iterator([f" {TEXT}"] * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    words = sorted(model["vocab"], key=lambda piece: model["vocab"][piece])
    vocab = {piece: i for i, piece in enumerate([*pieces, *words])}
    merges = [tuple(pair) for pair in model["merges"]]
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<s>", "</s>"])
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    return HFTokenizer(
        str(write(folder, tokenizer__json=backend.to_str(), tokenizer_config__json=json.dumps(config)))
    )


@pytest.fixture(scope="module", params=["bytes", "byte-level", "SentencePiece", "SentencePiece as JSON"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "bytes":
        return ByteTokenizer()
    if request.param == "byte-level":
        files = {"tokenizer__json": tiny_tokenizer().to_str()}
        return HFTokenizer(str(write(folder, **files, tokenizer_config__json=json.dumps(tokenizer_config()))))
    if request.param == "SentencePiece":
        return SentencePieceTokenizer(str(train(folder)))
    return write_llama2_tokenizer(folder)


@pytest.mark.parametrize("text", [*TEXTS, "naïve 😀 end", "  two  spaces ", "ééé 😀😀😀", "a b"])
def test_joined_pieces_match_decoding_all_tokens_at_once(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_bos=False, add_eos=False)
    pieces = list(decode_stream(ids, tokenizer))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert "" not in pieces
    assert not any(piece.endswith(REPLACEMENT) for piece in pieces[:-1])
    # An answer may begin at any token, even at a token with a leading space.
    for start in range(min(len(ids), 12)):
        assert "".join(decode_stream(ids[start:], tokenizer)) == tokenizer.decode(ids[start:])


def test_random_tokens_match_decoding_all_tokens_at_once(tokenizer: Tokenizer) -> None:
    generator = random.Random(0)
    is_llama2 = isinstance(tokenizer, HFTokenizer) and tokenizer.special_tokens.keys() == {"<s>", "</s>"}
    valid_ids = [i for i in range(tokenizer.vocab_size) if REPLACEMENT not in tokenizer.decode([i])]
    for _ in range(60):
        # Llama 2's decoder also replaces complete characters that are followed by invalid bytes.
        candidates = valid_ids if is_llama2 else range(tokenizer.vocab_size)
        ids = generator.choices(candidates, k=30)
        assert "".join(decode_stream(ids, tokenizer)) == tokenizer.decode(ids)


def test_characters_of_multiple_tokens_are_not_split() -> None:
    pieces = list(decode_stream("naïve 😀 end".encode(), ByteTokenizer()))
    assert pieces == ["n", "a", "ï", "v", "e", " ", "😀", " ", "e", "n", "d"]
    assert list(decode_stream([*b"ab", 0xF0], ByteTokenizer())) == ["a", "b", REPLACEMENT]
    assert list(decode_stream([], ByteTokenizer())) == []


def test_invalid_bytes_do_not_delay_text(tmp_path: Path) -> None:
    tokenizer = write_llama2_tokenizer(tmp_path)
    e_acute = [3 + byte for byte in "é".encode()]
    words = tokenizer.encode(" words", add_bos=False, add_eos=False)
    ids = [*words, *e_acute, 3 + 0xF0, *words]
    assert tokenizer.decode(ids).count(REPLACEMENT) == 3, (
        "the tokenizers library also replaces the complete character"
    )
    text = AnswerText(tokenizer)
    text_so_far = "".join(text.add(i) for i in ids)
    assert text_so_far.replace(REPLACEMENT, "").split() == ["wordsé", "words"]
    assert text_so_far.count(REPLACEMENT) == 1
    assert text.end() == ""


class CountingDecoder:
    """A decoder that records the length of the longest sequence decoded at once."""

    def __init__(self) -> None:
        self.longest, self._tokenizer = 0, ByteTokenizer()

    def decode(self, ids: list[int]) -> str:
        self.longest = max(self.longest, len(ids))
        return self._tokenizer.decode(ids)


def test_a_long_answer_is_not_decoded_again_for_every_token() -> None:
    decoder = CountingDecoder()
    text = "A long answer, 😀 and no end. " * 20
    assert "".join(decode_stream(text.encode(), decoder)) == text  # type: ignore[arg-type]  # only `decode` is called
    assert decoder.longest == 5, (
        "at most a character of four bytes and the previous token must be decoded at once"
    )


def decode_pieces(ids: list[int], stop: list[str]) -> list[str]:
    return list(decode_stream(ids, ByteTokenizer(), stop))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("One. Two.\n\nUser: Three", ["\n\nUser:"], "One. Two."),
        ("One. Two.\n\nUse", ["\n\nUser:"], "One. Two.\n\nUse"),
        ("ababac", ["abac"], "ab"),
        ("aaab", ["aab"], "a"),
        ("stop", ["stop"], ""),
        ("a stop, b", ["b", "stop"], "a "),
        ("abcd", ["cd", "bcd"], "a"),  # both end at the same character: the longer one applies
        ("abcd", ["abcd", "bc"], "a"),  # 'bc' is complete first, even though it begins later
        ("ça va? 😀 fin", ["😀"], "ça va? "),
        ("no stop string", ["xyz"], "no stop string"),
        ("no stop string", [], "no stop string"),
    ],
)
def test_text_ends_before_a_stop_string(text: str, stop: list[str], expected: str) -> None:
    assert "".join(decode_pieces(list(text.encode()), stop)) == expected


class WordDecoder:
    """A decoder that drops leading spaces, like some SentencePiece models."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def decode(self, ids: list[int]) -> str:
        return "".join(self._words[i] for i in ids).lstrip(" ")


@pytest.mark.parametrize(
    ("words", "stop", "expected"),
    [
        ((" a", " ", " ", " b", "  c"), [], "a   b  c"),
        (("  ", " a", " "), [], "a "),
        (("abcd",), ["abcd", "bc"], "a"),  # 'bc' is complete first, even within one token
        (("abcd",), ["cd", "bcd"], "a"),
        (("xab", "cdy"), ["bcd"], "xa"),
    ],
)
def test_tokens_of_multiple_letters_end_before_a_stop_string(
    words: tuple[str, ...], stop: list[str], expected: str
) -> None:
    tokenizer: Any = WordDecoder(*words)
    ids = list(range(len(words)))
    assert "".join(decode_stream(ids, tokenizer, stop)) == expected
    assert stop or tokenizer.decode(ids) == expected


def test_stop_strings_are_found_across_any_token_boundaries(tokenizer: Tokenizer) -> None:
    text = "The tiny tokenizer, these words: 0123 and nothing more."
    ids = tokenizer.encode(text, add_bos=False, add_eos=False)
    checked = 0
    for start in range(2, len(text) - 4, 3):
        stop = text[start : start + 4]
        assert "".join(decode_stream(ids, tokenizer, [stop])) == text[: text.index(stop)]
        checked += 1
    assert checked > 10


def test_a_possible_start_of_a_stop_string_is_buffered() -> None:
    text = AnswerText(ByteTokenizer(), ["<end>"])
    pieces = [text.add(byte) for byte in b"a<en <end"]
    assert pieces == ["a", "", "", "", "<en ", "", "", "", ""]
    assert not text.is_finished
    assert text.end() == "<end"
    text = AnswerText(ByteTokenizer(), ["<end>"])
    assert [text.add(byte) for byte in b"a<end>"] == ["a", *[""] * 5]
    assert text.is_finished
    assert text.end() == ""


def test_a_stop_string_in_the_last_piece_is_found() -> None:
    assert decode_pieces([*b"ab", 0xF0], [REPLACEMENT]) == ["a", "b"]


def test_no_token_is_read_after_a_stop_string() -> None:
    read, is_closed = [], []

    def ids() -> Iterator[int]:
        try:
            for byte in b"abc":
                read.append(byte)
                yield byte
        finally:
            is_closed.append(True)

    tokens = ids()
    assert list(decode_stream(tokens, ByteTokenizer(), ["b"])) == ["a"]
    assert (bytes(read), is_closed) == (b"ab", [True])


def test_an_empty_stop_string_is_rejected_immediately() -> None:
    with pytest.raises(ValueError, match="stop: a stop string is empty"):
        decode_stream([], ByteTokenizer(), ["a", ""])
