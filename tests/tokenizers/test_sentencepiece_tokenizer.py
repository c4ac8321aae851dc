"""Text is encoded as in the SentencePiece library, and special tokens spelled out in it are encoded as text."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tests.models.tiny import TEXT, write
from torchtune.data import Tokenizer
from torchtune.models.gemma import gemma_tokenizer
from torchtune.models.llama2 import llama2_tokenizer
from torchtune.models.phi3 import phi3_tokenizer
from torchtune.tokenizers import SentencePieceTokenizer


def train(folder: Path, **settings: Any) -> Path:
    """Train a small model with Llama 2's settings: BPE, byte fallback, single digits, no normalization."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 10),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **settings,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model with Gemma's settings: no space prefix, Gemma's ids, turn markers and line breaks as pieces."""
    return train(
        tmp_path_factory.mktemp("gemma"),
        add_dummy_prefix=False,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "<table>"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
    )


def test_ids_and_properties_match_the_library(folder: Path) -> None:
    tokenizer = llama2_tokenizer(str(folder / "tokenizer.model"))
    backend = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = backend.encode("these words, 12 of them, naïve")
    assert tokenizer.encode("these words, 12 of them, naïve") == [1, *ids, 2]
    assert tokenizer.encode("these words, 12 of them, naïve", add_bos=False, add_eos=False) == ids
    assert tokenizer.decode([1, *ids, 2]) == "these words, 12 of them, naïve"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert tokenizer.stop_ids == frozenset({2})
    assert tokenizer.vocab_size == backend.vocab_size()
    assert tokenizer.unknown_id == 0
    assert tokenizer.chat_template is None
    assert isinstance(tokenizer, Tokenizer)
    assert pickle.loads(pickle.dumps(tokenizer)).encode("these") == tokenizer.encode("these")


def test_special_tokens_are_recognized_only_in_templates(folder: Path) -> None:
    tokenizer = llama2_tokenizer(str(folder))
    text = "<s>these words</s><s>more"
    plain = tokenizer.encode(text, add_bos=False, add_eos=False)
    assert not {1, 2} & set(plain)
    assert tokenizer.decode(plain) == text
    first, second = (tokenizer.encode(part, add_bos=False, add_eos=False) for part in ("these words", "more"))
    assert tokenizer.encode_template(text) == [1, *first, 2, 1, *second]
    assert tokenizer.encode_template("these words") == first


def test_user_defined_pieces_are_special_if_the_family_declares_them(gemma: Path) -> None:
    tokenizer = gemma_tokenizer(str(gemma))
    backend = SentencePieceProcessor(model_file=str(gemma / "tokenizer.model"))
    start, end = map(backend.piece_to_id, ("<start_of_turn>", "<end_of_turn>"))
    text = "<start_of_turn>user\n\nthese <table> words<end_of_turn>\n"
    assert {start, end} <= {*backend.encode(text)}, "the library recognizes them in any text"
    plain = tokenizer.encode(text)
    assert not {start, end} & {*plain}
    assert tokenizer.decode(plain) == text
    assert backend.piece_to_id("<table>") in plain
    assert tokenizer.encode_template(text) == backend.encode(text)
    assert tokenizer.decode(backend.encode(text)) == "user\n\nthese <table> words\n"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 1, 0)
    assert tokenizer.stop_ids == {1, end}
    assert tokenizer.special_tokens == {
        "<pad>": 0,
        "<eos>": 1,
        "<bos>": 2,
        "<start_of_turn>": start,
        "<end_of_turn>": end,
    }
    unpickled = pickle.loads(pickle.dumps(tokenizer))
    assert (unpickled.encode(text), unpickled.stop_ids) == (plain, tokenizer.stop_ids)


PHI3 = {
    "<|endoftext|>": {"special": True},
    "<|assistant|>": {"special": True, "rstrip": True},
    "<|end|>": {"special": True, "rstrip": True},
    "<|user|>": {"special": True, "rstrip": True, "lstrip": True},
    "<plain>": {"special": False},
}
"""Added tokens as in the tokenizer_config.json of microsoft/Phi-3-mini-4k-instruct, and two more."""


@pytest.fixture(scope="module")
def phi3(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    n = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    added = {
        str(n + i): {"content": text, **flags, **changes} for i, (text, changes) in enumerate(PHI3.items())
    }
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<unk>",
        "unk_token": "<unk>",
        "added_tokens_decoder": added,
    }
    path = tmp_path_factory.mktemp("phi3")
    write(path, tokenizer_config__json=json.dumps(config))
    (path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    return path


def test_added_tokens_are_encoded_as_in_transformers(phi3: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, reference = phi3_tokenizer(str(phi3)), AutoTokenizer.from_pretrained(phi3)
    n = tokenizer.vocab_size - len(PHI3)
    for text in (
        "<s><|user|>\nthese words<|end|>\n<|assistant|>\n",
        "these <|user|>  words <plain> of<|end|>them<|endoftext|>",
        "<|assistant|>\n\nthese<plain>words",
        "<plain>",
    ):
        assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"]
    text = "these<|user|> words<plain>of<|end|>them"
    plain = tokenizer.encode(text, add_bos=False, add_eos=False)
    assert [i - n for i in plain if i >= n] == [4], "only the added token that is not special is recognized"
    assert tokenizer.decode(plain) == text
    assert (
        tokenizer.decode(tokenizer.encode_template("<|user|>these words<|end|><plain>"))
        == "these words<plain>"
    )
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, n, 0)
    assert tokenizer.stop_ids == {n}


@pytest.mark.parametrize("legacy", [True, False])
def test_the_space_after_an_added_token_is_kept(phi3: Path, tmp_path: Path, legacy: bool) -> None:
    from transformers import AutoTokenizer

    config = json.loads((phi3 / "tokenizer_config.json").read_text())
    write(tmp_path, tokenizer_config__json=json.dumps({**config, "legacy": legacy}))
    (tmp_path / "tokenizer.model").write_bytes((phi3 / "tokenizer.model").read_bytes())
    tokenizer, reference = phi3_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("these <plain> words", "<plain> words", "these<plain>  of <plain><plain> them", " <plain>"):
        ids = tokenizer.encode(text, add_bos=False, add_eos=False)
        assert tokenizer.decode(ids) == reference.decode(ids)
        assert tokenizer.decode(ids) == text.removeprefix(" ") or legacy


def test_unknown_ids_are_skipped_in_decoding(folder: Path) -> None:
    tokenizer = llama2_tokenizer(str(folder))
    assert (
        tokenizer.decode([-1, *tokenizer.encode("these words"), tokenizer.vocab_size, 10**6]) == "these words"
    )


@pytest.mark.parametrize("legacy", [True, False, None])
def test_the_space_prefix_matches_transformers(folder: Path, tmp_path: Path, legacy: bool | None) -> None:
    from transformers import AutoTokenizer

    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", **named, **({} if legacy is None else {"legacy": legacy})}
    write(tmp_path, tokenizer_config__json=json.dumps(config))
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    tokenizer, reference = llama2_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("these<s>words</s>of</s> them", "<s>these words", " these", "these</s>"):
        assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_plain_spans_of_a_template_stay_text(folder: Path) -> None:
    tokenizer = llama2_tokenizer(str(folder))
    text = "<s>these </s> words</s>"
    backend = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert tokenizer.encode_template(text, [(3, 19)]) == [1, *backend.encode("these </s> words"), 2]


def test_added_tokens_json_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    write(tmp_path, added_tokens__json='{"<|im_end|>": 400}')
    tokenizer = llama2_tokenizer(str(tmp_path))
    assert tokenizer.encode_template("<|im_end|>") == [400]
    assert tokenizer.vocab_size == 401
    for damaged in ('{"<|im_end|>": "end"}', '{"<|im_end|>": [1]}'):
        write(tmp_path, added_tokens__json=damaged)
        with pytest.raises(ValueError, match=r"added_tokens.json: an added token is .*; download it again"):
            llama2_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "added",
    [
        [],
        {"400": "<q>"},
        {"400": {}},
        {"400": {"content": None}},
        {"400": {"content": 5, "special": True}},
        {"400": {"content": ""}},
        {"-5": {"content": "<q>"}},
        {"x": {"content": "<q>"}},
    ],
)
def test_added_tokens_without_text_or_id_are_rejected(folder: Path, tmp_path: Path, added: Any) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    write(tmp_path, tokenizer_config__json=json.dumps({"added_tokens_decoder": added}))
    with pytest.raises(
        ValueError, match=r"/tokenizer_config.json: .*added.*; expected .*; download it again"
    ):
        llama2_tokenizer(str(tmp_path))


def test_a_chat_template_in_the_config_is_used(folder: Path, tmp_path: Path) -> None:
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }
    write(tmp_path, tokenizer_config__json=json.dumps(config))
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    template = llama2_tokenizer(str(tmp_path)).chat_template
    assert template is not None
    assert (
        template.render([{"role": "user", "content": "hello"}], add_generation_prompt=True).text == "<s>hello"
    )


def test_errors_name_the_missing_or_damaged_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.model in .*; expected a tokenizer.model or"):
        SentencePieceTokenizer(str(tmp_path))
    model = (folder / "tokenizer.model").read_bytes()
    for damaged in (b"\x0adamaged", model[: len(model) // 2], b"\x0f", b"{}"):
        (tmp_path / "tokenizer.model").write_bytes(damaged)
        with pytest.raises(
            ValueError, match="is not a SentencePiece model, or is damaged; download it again"
        ):
            llama2_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.model").write_bytes(model)
    write(tmp_path, tokenizer_config__json='{"eos_token": "<|im_end|>"}')
    with pytest.raises(
        ValueError, match=r"eos_token is '<\|im_end\|>', which is not in the vocabulary of tokenizer.model"
    ):
        llama2_tokenizer(str(tmp_path))
    write(tmp_path, tokenizer_config__json='{"chat_template": "{% if %}"}')
    with pytest.raises(
        ValueError, match=r"tokenizer_config.json: the chat template is not valid Jinja: line 1"
    ):
        llama2_tokenizer(str(tmp_path))
