"""Stored templates, special tokens and settings have the same effect as in transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tests.models.tiny import tiny_tokenizer, tokenizer_config, write
from tests.tokenizers.kinds import (
    sentencepiece_bytes,
    set_config,
    tekken,
    write_hf,
    write_sentencepiece,
    write_tekken,
)
from tests.tokenizers.texts import SPECIAL_TEXTS, TEXTS
from torchtune.data import ChatTemplate, Message
from torchtune.tokenizers import BaseTokenizer, HFTokenizer, SentencePieceTokenizer, auto_tokenizer
from torchtune.tokenizers._files import copy_tokenizer, remove_tokenizer

TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
HELLO: list[Message] = [Message(role="user", content="hello")]


def reference_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def template(tokenizer: BaseTokenizer) -> ChatTemplate:
    assert tokenizer.chat_template is not None
    return tokenizer.chat_template


def source(tokenizer: BaseTokenizer, *, tools: bool) -> str:
    chat_template = template(tokenizer)
    return (
        chat_template.tool_source if tools and chat_template.tool_source is not None else chat_template.source
    )


def named(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "template": f"{name} of the config"} for name in names]


def write_additional(folder: Path, *names: str) -> None:
    for name in names:
        write(folder / "additional_chat_templates", **{f"{name}__jinja": f"{name} of a file"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "tokenizer")


# Template selection


def template_in_config(folder: Path) -> None:
    set_config(folder, chat_template="the only one")


def template_in_file(folder: Path) -> None:
    set_config(folder, chat_template="of the config")
    write(folder, chat_template__jinja="of a file")


def named_templates(folder: Path) -> None:
    set_config(folder, chat_template=named("default", "tool_use", "rag"))


def named_templates_without_tool_use(folder: Path) -> None:
    set_config(folder, chat_template=named("rag", "default"))


def template_files(folder: Path) -> None:
    set_config(folder, chat_template=named("default", "tool_use"))
    write(folder, chat_template__jinja="of a file")
    write_additional(folder, "rag", "tool_use")


def template_file_and_named_templates(folder: Path) -> None:
    set_config(folder, chat_template=named("default", "tool_use"))
    write(folder, chat_template__jinja="of a file")


def template_files_with_default(folder: Path) -> None:
    write_additional(folder, "default", "tool_use")


STORED = [
    template_in_config,
    template_in_file,
    named_templates,
    named_templates_without_tool_use,
    template_files,
    template_file_and_named_templates,
    template_files_with_default,
]


@pytest.mark.parametrize("store", STORED)
def test_the_selected_template_matches_transformers(store: Any, folder: Path) -> None:
    store(folder)
    tokenizer, reference = HFTokenizer(str(folder)), reference_tokenizer(folder)
    assert source(tokenizer, tools=False) == reference.get_chat_template()
    assert source(tokenizer, tools=True) == reference.get_chat_template(tools=TOOLS)
    stored = (
        reference.chat_template
        if isinstance(reference.chat_template, dict)
        else {"default": reference.chat_template}
    )
    for name, text in stored.items():
        selected = HFTokenizer(str(folder), chat_template=name)
        assert source(selected, tools=False) == source(selected, tools=True) == text
    with pytest.raises(ValueError, match=rf"'other' is neither .* \(stored: {', '.join(sorted(stored))}\)"):
        HFTokenizer(str(folder), chat_template="other")


def test_a_template_must_be_selected_if_there_is_no_default(folder: Path) -> None:
    set_config(folder, chat_template=named("rag", "tool_use"))
    assert HFTokenizer(str(folder)).chat_template is None
    with pytest.raises(
        ValueError,
        match=r"date has no effect, because .* has no default chat template \(stored: rag, tool_use\); set chat",
    ):
        HFTokenizer(str(folder), date="2024-07-26")
    assert source(HFTokenizer(str(folder), chat_template="rag"), tools=True) == "rag of the config"


def test_the_legacy_file_has_the_lowest_precedence(folder: Path) -> None:
    write(folder, chat_template__json=json.dumps({"chat_template": "older"}))
    assert source(HFTokenizer(str(folder)), tools=False) == "older"
    set_config(folder, chat_template="newer")
    assert source(HFTokenizer(str(folder)), tools=False) == "newer"
    set_config(folder, chat_template=None)
    write(folder, chat_template__json=json.dumps({"chat_template": 5}))
    with pytest.raises(
        ValueError, match=r"chat_template.json: chat_template is 5; expected a template, or a list"
    ):
        HFTokenizer(str(folder))


@pytest.mark.parametrize("name", ["default", "tool_use"])
def test_the_error_for_a_damaged_template_names_its_file(name: str, folder: Path) -> None:
    write_additional(folder, "default", "tool_use")
    write(folder / "additional_chat_templates", **{f"{name}__jinja": "{% for %}"})
    with pytest.raises(
        ValueError, match=rf"additional_chat_templates/{name}.jinja: the chat template is not valid"
    ):
        HFTokenizer(str(folder))
    write_additional(folder, "default", "tool_use")
    (folder / "additional_chat_templates" / "rag.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"rag.jinja is not UTF-8 text .*; download it again"):
        HFTokenizer(str(folder))


@pytest.mark.parametrize("make", [write_hf, write_sentencepiece, write_tekken])
def test_every_tokenizer_class_reads_stored_templates(make: Any, tmp_path: Path) -> None:
    folder = set_config(make(tmp_path), chat_template=named("default", "tool_use"))
    for tokenizer in (auto_tokenizer(str(folder)), auto_tokenizer(str(folder), chat_template="tool_use")):
        assert source(tokenizer, tools=True) == "tool_use of the config"


def test_all_template_files_are_copied_and_fingerprinted(folder: Path, tmp_path: Path) -> None:
    write(folder, chat_template__jinja="of a file", chat_template__json="{}")
    write_additional(folder, "rag", "tool_use")
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_tokenizer(folder, copy)
    copied = {str(f.relative_to(copy)): f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    assert copied == {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    before = HFTokenizer(str(copy)).fingerprint()
    assert before == HFTokenizer(str(folder)).fingerprint()
    write(copy / "additional_chat_templates", rag__jinja="another")
    assert HFTokenizer(str(copy)).fingerprint() != before
    remove_tokenizer(copy)
    assert not [*copy.iterdir()]


# Template variables


ALL_TOKENS = "|".join(
    f"{{{{ {name} }}}}"
    for name in (
        *(f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask", "image", "boi")),
        "additional_special_tokens",
        "extra_special_tokens",
        "add_bos_token",
    )
)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"unk_token": "<think>", "sep_token": {"content": "</think>", "__type": "AddedToken"}},
        {"cls_token": "<think>", "mask_token": "</think>", "pad_token": None, "add_bos_token": False},
        {"image_token": "<think>", "boi_token": "</think>"},
        {"extra_special_tokens": {"image_token": "<think>"}},
        {"additional_special_tokens": ["<think>", "</think>"]},
        {"extra_special_tokens": ["<think>"]},
        {"bos_token": None},
    ],
)
def test_special_tokens_are_passed_to_the_template_as_in_transformers(
    config: dict[str, Any], folder: Path
) -> None:
    set_config(folder, chat_template=ALL_TOKENS, **config)
    tokenizer, reference = HFTokenizer(str(folder)), reference_tokenizer(folder)
    expected = reference.apply_chat_template(HELLO, tokenize=False)
    assert template(tokenizer).render(HELLO, add_generation_prompt=False).text == expected
    chat_template = template(tokenizer)
    named_tokens = {
        "bos_token": chat_template.bos_token,
        "eos_token": chat_template.eos_token,
        **chat_template.special_tokens,
    }
    assert {name: text for name, text in named_tokens.items() if text} == reference.special_tokens_map


@pytest.mark.parametrize("with_added", [True, False])
def test_special_tokens_map_is_read_if_the_config_lists_no_added_tokens(
    with_added: bool, folder: Path
) -> None:
    added = {"1": {"content": "<|im_start|>", "special": True, "normalized": False}} if with_added else None
    set_config(folder, chat_template=ALL_TOKENS, added_tokens_decoder=added)
    mapped = {"unk_token": "<think>", "pad_token": {"content": "</think>", "lstrip": False}}
    write(folder, special_tokens_map__json=json.dumps(mapped))
    tokenizer, reference = HFTokenizer(str(folder)), reference_tokenizer(folder)
    assert template(tokenizer).render(
        HELLO, add_generation_prompt=False
    ).text == reference.apply_chat_template(HELLO, tokenize=False)
    assert tokenizer.pad_id == reference.pad_token_id == (0 if with_added else 301)


def test_an_argument_takes_precedence_over_a_special_token(folder: Path) -> None:
    set_config(folder, chat_template="{{ unk_token }}", unk_token="<think>")
    tokenizer = HFTokenizer(str(folder), template_arguments={"unk_token": "mine"})
    reference = reference_tokenizer(folder).apply_chat_template(HELLO, tokenize=False, unk_token="mine")
    assert template(tokenizer).render(HELLO, add_generation_prompt=False).text == reference == "mine"


# Stored settings that change tokens


def write_limited(folder: Path, **settings: Any) -> Path:
    backend = tiny_tokenizer()
    backend.enable_truncation(**settings.get("truncation", {"max_length": 16}))
    backend.enable_padding(**settings.get("padding", {"length": 64, "pad_token": "<|endoftext|>"}))
    config = {**tokenizer_config(), "chat_template": None}
    return set_config(write(folder, tokenizer__json=backend.to_str()), **config)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"truncation": {"max_length": 3, "stride": 1, "direction": "left"}, "padding": {"direction": "left"}},
        {"padding": {"pad_to_multiple_of": 8, "pad_id": 2, "pad_token": "<|im_end|>"}},
        {"truncation": {"max_length": 1}},
    ],
)
def test_stored_truncation_and_padding_are_not_applied(settings: dict[str, Any], tmp_path: Path) -> None:
    tokenizer, reference = (
        HFTokenizer(str(write_limited(tmp_path / "a", **settings))),
        reference_tokenizer(tmp_path / "a"),
    )
    unlimited = HFTokenizer(str(set_config(write_hf(tmp_path / "b"), add_bos_token=True)))
    for text in [*TEXTS, *SPECIAL_TEXTS]:
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode_template(text) == expected
        assert tokenizer.encode(text, add_eos=False) == unlimited.encode(text, add_bos=False, add_eos=False)
        assert tokenizer.encode_template(text, [(0, len(text))]) == tokenizer.encode(text, add_eos=False)
    content = HFTokenizer(str(tmp_path / "a"), special_tokens_in_content=["<|im_start|>"])
    text = f"<|im_start|>{TEXTS[0]}"
    assert content.encode(text, add_eos=False) == tokenizer.encode_template(text)
    assert tokenizer.bos_id is None


def test_config_tokens_and_flags_are_applied_as_in_transformers(tmp_path: Path) -> None:
    backend = tiny_tokenizer()
    n = backend.get_vocab_size()
    texts = ("<plain>", "<kept>")
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts])
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    added = {
        str(n): {"content": "<plain>", **flags, "special": True},
        str(n + 1): {"content": "<kept>", **flags, "special": False},
        str(n + 2): {"content": "<new>", **flags, "special": True, "lstrip": True},
    }
    folder = set_config(
        write(tmp_path, tokenizer__json=backend.to_str()), **tokenizer_config(), added_tokens_decoder=added
    )
    tokenizer, reference = HFTokenizer(str(folder)), reference_tokenizer(folder)
    for text in ("a <plain>b<kept>c  <new> d", "<new><plain><kept><|im_end|>", *SPECIAL_TEXTS):
        assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"]
        split = reference(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.encode(text, add_eos=False) == split
    assert {*tokenizer.special_tokens} >= {"<plain>", "<new>"}
    assert "<kept>" not in tokenizer.special_tokens
    assert tokenizer.vocab_size == len(reference) == n + 3


def test_a_declared_token_is_special_even_if_the_file_treats_it_as_text(tmp_path: Path) -> None:
    values = json.loads(tiny_tokenizer().to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "<|im_end|>"]
    folder = set_config(write(tmp_path, tokenizer__json=json.dumps(values)), **tokenizer_config())
    tokenizer, reference = HFTokenizer(str(folder)), reference_tokenizer(folder)
    text = "hello<|im_end|>"
    assert tokenizer.encode_template(text) == reference(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_template(text)[-1] == 2
    assert 2 not in tokenizer.encode(text, add_eos=False)


def test_declared_pieces_are_special_in_sentencepiece(tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path)
    assert b"\n" in sentencepiece_bytes()
    set_config(folder, additional_special_tokens=["▁these"], mask_token="▁words")
    assert {"▁these", "▁words"} <= SentencePieceTokenizer(str(folder)).special_tokens.keys()


# Stop tokens


@pytest.mark.parametrize("make", [write_hf, write_sentencepiece, write_tekken])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config": 1}, {1}),
        ({"config": [0, 1]}, {0, 1}),
        ({"config": None}, set()),
        ({"config": 1, "generation_config": 4}, {1, 4}),
        ({"config": [1, 3], "generation_config": [4]}, {1, 3, 4}),
        ({"generation_config": [4]}, {4}),
    ],
)
def test_eos_ids_from_all_files_are_stop_ids(
    make: Any, files: dict[str, Any], expected: set[int], tmp_path: Path
) -> None:
    folder = make(tmp_path)
    for name, ids in files.items():
        write(folder, **{f"{name}__json": json.dumps({"eos_token_id": ids})})
    assert auto_tokenizer(str(folder)).stop_ids == {2, *expected}


def test_a_tekken_json_has_a_default_stop_id(tmp_path: Path) -> None:
    write(tmp_path, tekken__json=json.dumps(tekken()))
    assert auto_tokenizer(str(tmp_path)).stop_ids == {2}
