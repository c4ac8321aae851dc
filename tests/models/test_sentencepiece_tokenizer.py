"""SentencePiece tokenizers encode as the library does, and keep special tokens out of people's text."""

import io
import json
import pickle
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tests.models.tiny import TEXT, write
from torchtune.data import Tokenizer
from torchtune.models.llama2 import llama2_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model of 300 pieces with Llama 2's settings: BPE, byte fallback, single digits."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 10),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def test_ids_and_properties(folder: Path) -> None:
    tokenizer: Tokenizer = llama2_tokenizer(str(folder / "tokenizer.model"))
    backend = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = backend.encode("these words, 12 of them, naïve")
    assert tokenizer.encode("these words, 12 of them, naïve") == [1, *ids, 2]
    assert tokenizer.encode("these words, 12 of them, naïve", add_bos=False, add_eos=False) == ids
    assert tokenizer.decode([1, *ids, 2]) == "these words, 12 of them, naïve"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert tokenizer.stop_ids == frozenset({2})
    assert tokenizer.vocab_size == backend.vocab_size()
    assert tokenizer.chat_template is None
    assert isinstance(tokenizer, Tokenizer)
    assert pickle.loads(pickle.dumps(tokenizer)).encode("these") == tokenizer.encode("these")


def test_special_tokens_are_found_in_templates_alone(folder: Path) -> None:
    tokenizer = llama2_tokenizer(str(folder))
    text = "<s>these words</s><s>more"
    plain = tokenizer.encode(text, add_bos=False, add_eos=False)
    assert not {1, 2} & set(plain)
    assert tokenizer.decode(plain) == text
    words, more = (tokenizer.encode(part, add_bos=False, add_eos=False) for part in ("these words", "more"))
    assert tokenizer.encode_template(text) == [1, *words, 2, 1, *more]
    assert tokenizer.encode_template("these words") == words


def test_a_chat_template_beside_it_is_used(folder: Path, tmp_path: Path) -> None:
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }
    write(tmp_path, tokenizer_config__json=json.dumps(config))
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    template = llama2_tokenizer(str(tmp_path)).chat_template
    assert template is not None
    assert template.render([{"role": "user", "content": "hello"}], add_generation_prompt=True) == "<s>hello"


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no tokenizer.model in .*; the tokenizer's tokenizer.model, or"
    ):
        llama2_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.model").write_bytes(b"\x0adamaged")
    with pytest.raises(ValueError, match="is not a SentencePiece model, or is damaged; fetch it again"):
        llama2_tokenizer(str(tmp_path))
