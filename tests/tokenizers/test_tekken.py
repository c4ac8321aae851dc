"""Tokenizers loaded from Mistral's tekken.json are compared with mistral_common."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import mistral_common
import pytest
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from tests.models.tiny import write
from tests.tokenizers.kinds import set_config, tekken, write_tekken
from tests.tokenizers.texts import SPECIAL_TEXTS, TEXTS
from torchtune.data import Tokenizer
from torchtune.models.mistral import mistral_tokenizer
from torchtune.tokenizers import HFTokenizer, TekkenTokenizer, auto_tokenizer

FILES = sorted((Path(mistral_common.__file__).parent / "data").glob("tekken_*.json"))
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "<think>", "</think>"]


def random_texts(n: int, letters: str) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(letters, k=draw.randrange(1, 60))) for _ in range(n)]


def check_same(tokenizer: Any, reference: Tekkenizer, texts: list[str]) -> None:
    for text in texts:
        expected = reference.encode(text, bos=False, eos=False)
        assert tokenizer.encode(text) == [reference.bos_id, *expected, reference.eos_id], text
        assert tokenizer.encode_template(text, [(0, len(text))]) == expected
        assert tokenizer.decode(expected) == reference.decode(expected)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (
        reference.bos_id,
        reference.eos_id,
        reference.pad_id,
    )
    assert tokenizer.stop_ids == {reference.eos_id}
    assert tokenizer.vocab_size == reference.n_words
    assert tokenizer.special_tokens == reference._special_tokens_reverse_vocab
    assert tokenizer.unknown_id is None


def test_mistral_common_contains_tekken_files() -> None:
    assert len(FILES) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tekken_files_are_encoded_as_in_mistral_common(file: Path) -> None:
    tokenizer, reference = mistral_tokenizer(str(file)), Tekkenizer.from_file(file)
    assert isinstance(tokenizer, TekkenTokenizer)
    assert isinstance(tokenizer, Tokenizer)
    source = Path(__file__).read_text(encoding="utf-8")
    mixed = random_texts(200, "aeinrstAEŁß \n\t.,'/0123'<>[]SINT漢字жыи🎉é\u0301\u200d\u00a0")
    check_same(tokenizer, reference, [*TEXTS, *SPECIAL_TEXTS, source, *mixed])
    ids = tokenizer.encode_template("<s>[INST] Größe?[/INST] 東京</s>")
    words = [reference.encode(text, bos=False, eos=False) for text in (" Größe?", " 東京")]
    assert ids == [1, 3, *words[0], 4, *words[1], 2]


@pytest.mark.parametrize("special", [None, SPECIAL, [*SPECIAL, *(f"[T{i}]" for i in range(22))]])
def test_other_special_tokens_are_encoded_as_in_mistral_common(
    special: list[str] | None, tmp_path: Path
) -> None:
    version = "v3" if special is None else "v11"
    write(tmp_path, tekken__json=json.dumps(tekken(special, version=version)))
    tokenizer, reference = auto_tokenizer(str(tmp_path)), Tekkenizer.from_file(tmp_path / "tekken.json")
    texts = [*random_texts(300, "the words äö\n 01/<s>[INST]pad"), "qzx", " qzx", "aqzx", "<qzx>qzx"]
    check_same(tokenizer, reference, [*TEXTS, *SPECIAL_TEXTS, "<s>", "<SPECIAL_20>", "[T3]", *texts])
    for text, i in tokenizer.special_tokens.items():
        assert tokenizer.encode_template(f"the{text}words")[1:-1].count(i) == 1
    assert pickle.loads(pickle.dumps(tokenizer)).encode("<s>") == tokenizer.encode("<s>")


def test_more_special_tokens_than_ranks_are_encoded_as_in_mistral_common(tmp_path: Path) -> None:
    write(tmp_path, tekken__json=json.dumps(tekken(SPECIAL, 1000, version="v13")))
    tokenizer, reference = auto_tokenizer(str(tmp_path)), Tekkenizer.from_file(tmp_path / "tekken.json")
    check_same(tokenizer, reference, TEXTS)


def test_configuration_files_are_read(tmp_path: Path) -> None:
    folder = write_tekken(tmp_path)
    assert TekkenTokenizer(str(folder)).chat_template is None
    write(folder, chat_template__jinja="{{ bos_token }}", config__json='{"eos_token_id": [2, 4]}')
    tokenizer = TekkenTokenizer(str(folder))
    assert tokenizer.chat_template is not None
    assert (tokenizer.chat_template.bos_token, tokenizer.chat_template.eos_token) == ("<s>", "</s>")
    assert tokenizer.stop_ids == {2, 4}
    set_config(folder, eos_token="[/INST]", add_bos_token=False)
    tokenizer = TekkenTokenizer(str(folder))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, 4)


def test_a_tokenizer_json_takes_precedence(tmp_path: Path) -> None:
    from tests.tokenizers.kinds import write_hf

    write_tekken(write_hf(tmp_path))
    assert isinstance(auto_tokenizer(str(tmp_path)), HFTokenizer)


def damaged(**changes: Any) -> dict[str, Any]:
    return {**tekken(SPECIAL, version="v11"), **changes}


def changed_config(**changes: Any) -> dict[str, Any]:
    return damaged(config={**tekken()["config"], "version": "v11", **changes})


def changed_vocab(i: int, **changes: Any) -> dict[str, Any]:
    values = damaged()
    values["vocab"][i] = {**values["vocab"][i], **changes}
    return values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, r"tekken.json: config is None; expected an object of settings"),
        (damaged(config=[]), r"config is \[\]; expected an object of settings"),
        (changed_config(pattern=None), r"config.pattern is None; expected a regular expression"),
        (changed_config(pattern="("), r"tekken.json cannot be used: .*; download it again"),
        (
            changed_config(pattern=r"[^\n]+"),
            r"the special token '<unk>' is also an ordinary token of the vocabulary",
        ),
        (
            changed_config(default_vocab_size="x"),
            r"config.default_vocab_size is 'x'; expected a non-negative integer",
        ),
        (changed_config(default_num_special_tokens=-1), r"config.default_num_special_tokens is -1"),
        (
            changed_config(default_num_special_tokens=3),
            r"special_tokens has 8 tokens .* is 3; download it again",
        ),
        (
            changed_config(default_vocab_size=10**6),
            r"vocab is .*; expected a list of at least 999970 tokens",
        ),
        (
            changed_config(default_vocab_size=100),
            r"vocab lacks some bytes, or has duplicate tokens; download it again",
        ),
        (damaged(vocab=None), r"vocab is None; expected a list of at least \d+ tokens"),
        (changed_vocab(7, rank=8), r"vocab\[7\] is not a valid token entry \(expected rank 7\)"),
        (changed_vocab(7, token_bytes="*"), r"vocab\[7\] is not a valid token entry"),
        (changed_vocab(7, token_bytes=None), r"vocab\[7\] is not a valid token entry"),
        (changed_vocab(300, token_bytes="AA=="), r"vocab lacks some bytes, or has duplicate tokens"),
        (damaged(vocab=["x"] * 1000), r"vocab\[0\] is not a valid token entry"),
        (
            tekken(None, version="v11"),
            r"has version 'v11' but no special_tokens, which only versions up",
        ),
        (tekken(None, version=None), r"has version None but no special_tokens"),
        (tekken(["<s>", "<s>"]), r"special_tokens has 30 tokens \(29 distinct\)"),
        (damaged(special_tokens={}), r"special_tokens is {}; expected a list of tokens"),
        (
            damaged(special_tokens=["<s>"]),
            r"special_tokens\[0\] is '<s>'; expected a token_str and the rank 0",
        ),
        (damaged(special_tokens=[{"rank": 1, "token_str": "<s>"}]), r"special_tokens\[0\] is .* the rank 0"),
        (tekken(["<s>"]), r"eos_token is '</s>', which is not in the vocabulary of tekken.json"),
    ],
)
def test_errors_name_the_damaged_file(values: dict[str, Any], expected: str, tmp_path: Path) -> None:
    write(tmp_path, tekken__json=json.dumps(values))
    with pytest.raises(ValueError, match=expected):
        TekkenTokenizer(str(tmp_path))


def test_errors_name_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tekken.json in .*; expected a tekken.json or"):
        TekkenTokenizer(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no tekken_9.json in"):
        auto_tokenizer(str(tmp_path / "tekken_9.json"))
    write(tmp_path, config__json="{}")
    with pytest.raises(
        FileNotFoundError, match=r"no tokenizer in .*: expected tokenizer.json, tokenizer.model, tek"
    ):
        auto_tokenizer(str(tmp_path))
