"""Tokenizers loaded from Llama 3's tokenizer.model are compared with tiktoken and Meta's code."""

import base64
import functools
import importlib
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers.texts import SPECIAL_TEXTS, TEXTS
from torchtune.data import Tokenizer
from torchtune.models.llama3 import llama3_tokenizer
from torchtune.tokenizers import HFTokenizer, TiktokenTokenizer
from torchtune.tokenizers._tiktoken import SPECIAL_TOKENS, is_tiktoken, write_tiktoken_tokenizer

# From `llama_models/llama3/tokenizer.py` of https://github.com/meta-llama/llama-models.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def ranks() -> dict[bytes, int]:
    """Build a vocabulary of Llama 3's size: single bytes, then sequences of 2 to 4 common bytes, by length."""
    letters = b" etaoinshrdlu,\n01\xc3\xa4\xf0\x9f"
    longer = itertools.chain.from_iterable(itertools.product(letters, repeat=n) for n in (2, 3, 4))
    tokens = itertools.chain(([b] for b in range(256)), longer)
    return {bytes(token): i for i, token in enumerate(itertools.islice(tokens, 128_000))}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama3") / "tokenizer.model"
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(t), i) for t, i in ranks().items()))
    return path


def tiktoken_encoding(ranks: dict[bytes, int]) -> Any:
    from tiktoken import Encoding

    special = {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)}
    return Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.mark.slow
def test_ids_match_tiktoken(file: Path) -> None:
    reference, tokenizer = tiktoken_encoding(ranks()), llama3_tokenizer(str(file))
    assert isinstance(tokenizer, TiktokenTokenizer)
    for text in [*TEXTS, *SPECIAL_TEXTS]:
        plain = reference.encode(text, disallowed_special=())
        assert tokenizer.encode(text, add_bos=False, add_eos=False) == plain
        assert tokenizer.encode_template(text) == reference.encode(text, allowed_special="all")
        assert tokenizer.encode(text) == [128_000, *plain, 128_001]
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.slow
def test_special_ids_match_metas_code(file: Path) -> None:
    tokenizer: Tokenizer = llama3_tokenizer(str(file.parent))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (128_000, 128_001, 128_004)
    assert tokenizer.stop_ids == {128_001, 128_008, 128_009}
    assert tokenizer.vocab_size == 128_256
    assert len(tokenizer.special_tokens) == 256
    assert tokenizer.chat_template is None
    assert pickle.loads(pickle.dumps(tokenizer)).encode("<|eot_id|>")[1] != 128_009


@pytest.mark.slow
def test_configuration_files_are_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to(file)
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ 1 }}"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [128_001, 128_009]}))
    tokenizer = llama3_tokenizer(str(tmp_path))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 128_009, 128_009)
    assert tokenizer.stop_ids == {128_001, 128_009}
    assert tokenizer.chat_template is not None


@pytest.mark.slow
def test_the_written_tokenizer_json_matches_the_original(file: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    special_ids = write_tiktoken_tokenizer(file, tmp_path)
    assert special_ids == {
        "bos_token_id": 128_000,
        "eos_token_id": [128_001, 128_008, 128_009],
        "pad_token_id": 128_004,
    }
    tokenizer, reference = llama3_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, HFTokenizer)
    original = llama3_tokenizer(str(file))
    for name in ("bos_id", "eos_id", "pad_id", "stop_ids", "vocab_size", "special_tokens"):
        assert getattr(tokenizer, name) == getattr(original, name)
    for text in [*TEXTS, *SPECIAL_TEXTS]:
        assert tokenizer.encode(text) == original.encode(text)
        assert tokenizer.encode_template(text) == original.encode_template(text)
        assert reference(text)["input_ids"] == [128_000, *original.encode_template(text)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", r"has 0 tokens, but Llama 3's has 128,000"),
        (b"IQ== 0\nIg== 1\n", r"has 2 tokens, but Llama 3's has 128,000"),
        (b"IQ== 0\nIg== 7\n", r"tokenizer.model, line 2: expected a token and its rank \(expected rank 1\)"),
        (b"IQ== 0\n*** 1\n", r"tokenizer.model, line 2: expected a token and its rank"),
        (b"IQ== 0\nIg==", r"tokenizer.model, line 2: expected a token and its rank"),
    ],
)
def test_errors_name_the_damaged_file(lines: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(lines)
    with pytest.raises(ValueError, match=message):
        TiktokenTokenizer(str(tmp_path))


def test_a_sentencepiece_file_is_recognized(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15")
    assert not is_tiktoken(path)
    with pytest.raises(ValueError, match="is not a SentencePiece model, or is damaged"):
        llama3_tokenizer(str(path))


@pytest.mark.slow
def test_the_real_file_matches_metas_code(
    fetch_package: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = fetch_package("llama-models")
    monkeypatch.syspath_prepend(str(package))
    file = package / "llama_models/llama3/tokenizer.model"
    reference = importlib.import_module("llama_models.llama3.tokenizer").Tokenizer(file)
    tokenizer = llama3_tokenizer(str(file))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (
        reference.bos_id,
        reference.eos_id,
        reference.pad_id,
    )
    assert tokenizer.stop_ids == set(reference.stop_tokens)
    assert tokenizer.special_tokens == reference.special_tokens
    assert tokenizer.vocab_size == reference.n_words
    for text in [*TEXTS, *SPECIAL_TEXTS]:
        assert tokenizer.encode(text) == reference.encode(text, bos=True, eos=True, disallowed_special=())
        assert tokenizer.encode_template(text) == reference.encode(
            text, bos=False, eos=False, allowed_special="all"
        )
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(ValueError, match="has 200,000 tokens, but Llama 3's has 128,000"):
        llama3_tokenizer(str(package / "llama_models/llama4/tokenizer.model"))
