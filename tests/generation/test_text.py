"""An answer's pieces are, joined, what its tokens decode to, and end before stop strings wherever these begin."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.models.tiny import TEXT, tiny_tokenizer, tokenizer_config, write
from tests.tokenizers.real import TEXTS
from tests.tokenizers.test_sentencepiece_tokenizer import train
from torchtune.data import Tokenizer
from torchtune.generation import AnswerText, as_text
from torchtune.tokenizers import HFTokenizer, SentencePieceTokenizer

BROKEN = "\N{REPLACEMENT CHARACTER}"


def llama2_as_json(folder: Path) -> HFTokenizer:
    """Write a tokenizer.json as Llama 2's is: spaces are marks, what is in no piece is written in bytes."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, trainers

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learnt = Backend(models.BPE())
    learnt.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    learnt.train_from_iterator([f" {TEXT}"] * 3, trainer)
    model = json.loads(learnt.to_str())["model"]
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
    return llama2_as_json(folder)


@pytest.mark.parametrize("text", [*TEXTS, "naïve 😀 end", "  two  spaces ", "ééé 😀😀😀", "a b"])
def test_pieces_joined_are_the_tokens_decoded_together(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_bos=False, add_eos=False)
    pieces = list(as_text(ids, tokenizer))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert "" not in pieces
    assert not any(piece.endswith(BROKEN) for piece in pieces[:-1])
    # An answer may begin anywhere within a text, also with a token that begins with a space.
    for start in range(min(len(ids), 12)):
        assert "".join(as_text(ids[start:], tokenizer)) == tokenizer.decode(ids[start:])


def test_tokens_in_any_order_are_decoded_as_together(tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    is_rewriting = isinstance(tokenizer, HFTokenizer) and tokenizer.special_tokens.keys() == {"<s>", "</s>"}
    ids_of_words = [i for i in range(tokenizer.vocab_size) if BROKEN not in tokenizer.decode([i])]
    for _ in range(60):
        # That one replaces whole characters, too, where bytes that are none follow them.
        among = ids_of_words if is_rewriting else range(tokenizer.vocab_size)
        ids = draw.choices(among, k=30)
        assert "".join(as_text(ids, tokenizer)) == tokenizer.decode(ids)


def test_characters_of_several_tokens_come_out_whole() -> None:
    pieces = list(as_text("naïve 😀 end".encode(), ByteTokenizer()))
    assert pieces == ["n", "a", "ï", "v", "e", " ", "😀", " ", "e", "n", "d"]
    assert list(as_text([*b"ab", 0xF0], ByteTokenizer())) == ["a", "b", BROKEN]
    assert list(as_text([], ByteTokenizer())) == []


def test_bytes_that_are_no_character_hold_nothing_up(tmp_path: Path) -> None:
    tokenizer = llama2_as_json(tmp_path)
    e_acute = [3 + byte for byte in "é".encode()]
    words = tokenizer.encode(" words", add_bos=False, add_eos=False)
    ids = [*words, *e_acute, 3 + 0xF0, *words]
    assert tokenizer.decode(ids).count(BROKEN) == 3, "the library replaces what was a character, too"
    text = AnswerText(tokenizer)
    told = "".join(text.add(i) for i in ids)
    assert told.replace(BROKEN, "").split() == ["wordsé", "words"]
    assert told.count(BROKEN) == 1
    assert text.end() == ""


class Decodings:
    """Counts what a tokenizer decodes."""

    def __init__(self) -> None:
        self.longest, self._tokenizer = 0, ByteTokenizer()

    def decode(self, ids: list[int]) -> str:
        self.longest = max(self.longest, len(ids))
        return self._tokenizer.decode(ids)


def test_a_long_answer_is_not_decoded_again_for_every_token() -> None:
    counting = Decodings()
    text = "A long answer, 😀 and no end. " * 20
    assert "".join(as_text(text.encode(), counting)) == text  # type: ignore[arg-type]  # it has what is needed
    assert counting.longest == 5, "a character of four bytes, and the token that it follows"


def pieces_until(ids: list[int], stop: list[str]) -> list[str]:
    return list(as_text(ids, ByteTokenizer(), stop))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("One. Two.\n\nUser: Three", ["\n\nUser:"], "One. Two."),
        ("One. Two.\n\nUse", ["\n\nUser:"], "One. Two.\n\nUse"),
        ("ababac", ["abac"], "ab"),
        ("aaab", ["aab"], "a"),
        ("stop", ["stop"], ""),
        ("a stop, b", ["b", "stop"], "a "),
        ("abcd", ["cd", "bcd"], "a"),  # Of those that end together the longest.
        ("abcd", ["abcd", "bc"], "a"),  # Complete first, although it begins later.
        ("ça va? 😀 fin", ["😀"], "ça va? "),
        ("nothing of it", ["xyz"], "nothing of it"),
        ("nothing of it", [], "nothing of it"),
    ],
)
def test_a_text_ends_before_a_stop_string(text: str, stop: list[str], expected: str) -> None:
    assert "".join(pieces_until(list(text.encode()), stop)) == expected


class Words:
    """Has texts for tokens; spaces before a text are dropped, as some SentencePiece models do."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def decode(self, ids: list[int]) -> str:
        return "".join(self._words[i] for i in ids).lstrip(" ")


@pytest.mark.parametrize(
    ("words", "stop", "expected"),
    [
        ((" a", " ", " ", " b", "  c"), [], "a   b  c"),
        (("  ", " a", " "), [], "a "),
        (("abcd",), ["abcd", "bc"], "a"),  # Within one token, too, the one that is complete first.
        (("abcd",), ["cd", "bcd"], "a"),
        (("xab", "cdy"), ["bcd"], "xa"),
    ],
)
def test_tokens_of_several_letters(words: tuple[str, ...], stop: list[str], expected: str) -> None:
    tokenizer: Any = Words(*words)
    ids = list(range(len(words)))
    assert "".join(as_text(ids, tokenizer, stop)) == expected
    assert stop or tokenizer.decode(ids) == expected


def test_stop_strings_are_found_wherever_tokens_begin_and_end(tokenizer: Tokenizer) -> None:
    text = "The tiny tokenizer, these words: 0123 and nothing more."
    ids = tokenizer.encode(text, add_bos=False, add_eos=False)
    checked = 0
    for start in range(2, len(text) - 4, 3):
        stop = text[start : start + 4]
        assert "".join(as_text(ids, tokenizer, [stop])) == text[: text.index(stop)]
        checked += 1
    assert checked > 10


def test_what_may_become_a_stop_string_is_held_back() -> None:
    text = AnswerText(ByteTokenizer(), ["<end>"])
    found = [text.add(byte) for byte in b"a<en <end"]
    assert found == ["a", "", "", "", "<en ", "", "", "", ""]
    assert not text.is_over
    assert text.end() == "<end"
    text = AnswerText(ByteTokenizer(), ["<end>"])
    assert [text.add(byte) for byte in b"a<end>"] == ["a", *[""] * 5]
    assert text.is_over
    assert text.end() == ""


def test_a_stop_string_in_the_last_piece_is_found() -> None:
    assert pieces_until([*b"ab", 0xF0], [BROKEN]) == ["a", "b"]


def test_tokens_are_read_no_further_than_to_a_stop_string() -> None:
    taken, is_closed = [], []

    def ids() -> Iterator[int]:
        try:
            for byte in b"abc":
                taken.append(byte)
                yield byte
        finally:
            is_closed.append(True)

    tokens = ids()
    assert list(as_text(tokens, ByteTokenizer(), ["b"])) == ["a"]
    assert (bytes(taken), is_closed) == (b"ab", [True])


def test_an_empty_stop_string_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="stop: a stop string is empty"):
        as_text([], ByteTokenizer(), ["a", ""])
