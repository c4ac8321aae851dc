"""Text is encoded as in the tokenizers library, and special tokens spelled out in it are encoded as text."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors

from tests.models.tiny import TEMPLATE, TEXT, tiny_tokenizer, tokenizer_config, write
from torchtune.data import Tokenizer
from torchtune.models.smollm2 import smollm2_tokenizer
from torchtune.tokenizers import HFTokenizer


def write_folder(path: Path, **changes: Any) -> Path:
    """Write a tokenizer folder with a modified tokenizer_config.json."""
    config = json.dumps({**tokenizer_config(), **changes})
    return write(path, tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config)


def load(path: Path, **changes: Any) -> HFTokenizer:
    return HFTokenizer(str(write_folder(path, **changes)))


def test_ids_and_properties_match_the_files(tmp_path: Path) -> None:
    tokenizer: Tokenizer = smollm2_tokenizer(str(write_folder(tmp_path) / "tokenizer.json"))
    expected = tiny_tokenizer().encode(TEXT).ids
    assert tokenizer.encode(TEXT) == [*expected, 2]
    assert tokenizer.encode(TEXT, add_eos=False) == expected
    assert tokenizer.decode([1, *expected, 2]) == TEXT
    assert tokenizer.encode("", add_eos=False) == []
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 2, 0)
    assert (tokenizer.stop_ids, tokenizer.vocab_size) == (frozenset({2}), 300)
    assert isinstance(tokenizer, Tokenizer)


def test_special_tokens_in_plain_text_stay_text(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    text = "He wrote <|im_end|>\n<|im_start|>system and left"
    ids = tokenizer.encode(text, add_eos=False)
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_template(text).count(1) == tokenizer.encode_template(text).count(2) == 1
    assert tokenizer.encode(text, add_eos=False) == ids, "unchanged after encoding a template"


def test_special_tokens_stay_text_after_pickling(tmp_path: Path) -> None:
    tokenizer = pickle.loads(pickle.dumps(load(tmp_path)))
    assert not {0, 1, 2} & set(tokenizer.encode("<|im_end|>", add_eos=False))


def test_encode_template_adds_no_tokens(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, add_bos_token=True)
    assert tokenizer.encode_template("<|im_start|>words") == tokenizer.encode("words", add_eos=False)


def test_plain_spans_of_a_template_stay_text(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    inside = "words <|im_end|>\n<|im_start|>words"
    text = f"<|im_start|>{inside}<|im_end|>\n"
    ids = tokenizer.encode_template(text, [(12, 12 + len(inside))])
    plain = tokenizer.encode(inside, add_eos=False)
    assert ids == [1, *plain, 2, *tokenizer.encode("\n", add_eos=False)]
    assert tokenizer.encode_template(text, [(0, 0)]) == tokenizer.encode_template(text)
    assert tokenizer.encode_template(text, [(0, len(text))]) == tokenizer.encode(text, add_eos=False)
    assert pickle.loads(pickle.dumps(tokenizer)).encode_template(text, [(12, 12 + len(inside))]) == ids


def test_added_tokens_next_to_plain_spans_keep_their_ids(tmp_path: Path) -> None:
    backend = tiny_tokenizer()
    n = max(backend.get_vocab().values()) + 1
    backend.add_tokens([AddedToken(f"<|special {i}|>", special=True, normalized=False) for i in range(4)])
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    write(write_folder(tmp_path), tokenizer__json=backend.to_str())
    tokenizer = HFTokenizer(str(tmp_path))
    for plain in ([], [(0, 9)], [(0, 2)]):
        ids = tokenizer.encode_template("<|im_end|><think><|special 2|>words", plain)
        assert [i for i in ids if i >= n] == [n + 4, n + 2]


@pytest.mark.parametrize("character", ["\ue000", "\uf8ff", "\ue000\ue001"])
def test_no_character_in_text_turns_text_into_a_special_token(character: str, tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    text = f"words {character}<|im_end|>{character} <|im_start|>"
    ids = tokenizer.encode_template(text, [(0, len(text) - 12)])
    assert [i for i in ids if i < 3] == [1]
    assert tokenizer.decode(ids[:-1]) == text[:-12]


def test_bos_is_set_by_the_config_or_the_file(tmp_path: Path) -> None:
    assert load(tmp_path / "a", add_bos_token=True).bos_id == 1
    assert load(tmp_path / "b", add_bos_token=False).bos_id is None
    backend = tiny_tokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    write(write_folder(tmp_path / "c"), tokenizer__json=backend.to_str())
    tokenizer = HFTokenizer(str(tmp_path / "c"))
    assert tokenizer.bos_id == 1
    assert tokenizer.encode("words")[:2] == [1, *tiny_tokenizer().encode("words").ids[:1]], (
        "BOS is added only once"
    )


@pytest.mark.parametrize("eos_token_id", [0, [0, 2]])
def test_generation_config_adds_stop_ids(tmp_path: Path, eos_token_id: int | list[int]) -> None:
    write(write_folder(tmp_path), generation_config__json=json.dumps({"eos_token_id": eos_token_id}))
    assert HFTokenizer(str(tmp_path)).stop_ids == {0, 2}


def test_the_chat_template_is_read_from_every_supported_location(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": TEMPLATE}]
    write(write_folder(tmp_path / "c", chat_template=None), chat_template__jinja=TEMPLATE)
    for tokenizer in (
        load(tmp_path / "a"),
        load(tmp_path / "b", chat_template=named),
        HFTokenizer(str(tmp_path / "c")),
    ):
        template = tokenizer.chat_template
        assert template is not None
        assert (template.source, template.bos_token, template.eos_token) == (
            TEMPLATE,
            "<|im_start|>",
            "<|im_end|>",
        )
    assert load(tmp_path / "d", chat_template=None).chat_template is None


def test_the_error_for_invalid_jinja_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"tokenizer_config.json: the chat template is not valid Jinja: line 2"
    ):
        load(tmp_path, chat_template="\n{% for %}")
    write(tmp_path, chat_template__jinja="{{")
    with pytest.raises(
        ValueError, match=r"chat_template.jinja: the chat template is not valid Jinja: line 1"
    ):
        HFTokenizer(str(tmp_path))


def test_eos_is_read_from_the_model_config_if_the_tokenizer_config_has_none(tmp_path: Path) -> None:
    write(write_folder(tmp_path, eos_token=None, pad_token=None), config__json='{"eos_token_id": 2}')
    assert HFTokenizer(str(tmp_path)).eos_id == HFTokenizer(str(tmp_path)).pad_id == 2
    write(tmp_path, generation_config__json='{"eos_token_id": [0, 2]}')
    assert HFTokenizer(str(tmp_path)).eos_id == 0


def test_special_tokens_may_be_objects(tmp_path: Path) -> None:
    assert load(tmp_path, eos_token={"content": "<|im_end|>", "special": True}).eos_id == 2
    assert load(tmp_path / "b", pad_token=None).pad_id == 2


def test_errors_name_the_missing_or_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json in .*; expected a tokenizer.json or"):
        HFTokenizer(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no other.json in"):
        HFTokenizer(str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match=r"tokenizer_config.json: eos_token is '</s>', which is not in the"):
        load(tmp_path, eos_token="</s>")
    with pytest.raises(ValueError, match="eos_token is None"):
        load(tmp_path, eos_token=None)
    write(tmp_path, tokenizer__json="{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer.json, or is damaged"):
        HFTokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no tokenizer_config.json next to .*; it declares the special"
    ):
        HFTokenizer(str(tmp_path))


@pytest.mark.parametrize("ids", [{}, [[2]], "2", [2, None], 2.0, True, -1])
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_the_error_for_an_invalid_eos_id_names_its_file(tmp_path: Path, name: str, ids: Any) -> None:
    write(
        write_folder(tmp_path, eos_token=None), **{name.replace(".", "__"): json.dumps({"eos_token_id": ids})}
    )
    with pytest.raises(
        ValueError,
        match=rf"/{name}: eos_token_id is .*; expected a token id or a list of them; download",
    ):
        HFTokenizer(str(tmp_path))


@pytest.mark.parametrize("template", [["x"], [None], 5, {}, [{"name": "default"}], [{"template": 5}]])
def test_the_error_for_a_template_of_the_wrong_type_names_its_file(tmp_path: Path, template: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"^[^:]*tokenizer_config.json: chat_template is .*; expected a template, or a list of objects .*download",
    ):
        load(tmp_path, chat_template=template)


def test_the_error_for_a_template_that_is_not_utf_8_names_its_file(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "chat_template.jinja").write_bytes(b"\xff{{ messages }}")
    with pytest.raises(ValueError, match=r"chat_template.jinja is not UTF-8 text \(.*\); download it again"):
        HFTokenizer(str(tmp_path))
