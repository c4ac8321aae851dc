"""The options that every tokenizer takes have their effect in every kind, or are an error."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from recipes.lora_finetune import LoraFinetuneConfig
from tests.models.tiny import write
from tests.tokenizers.kinds import KINDS, LLAMA3_RANKS, TEMPLATE, Kind, set_config, write_hf
from tests.tokenizers.real import SPECIAL_TEXTS, TEXTS
from torchtune import runs
from torchtune.config import InstantiationError, instantiate, lazy
from torchtune.data import ChatTemplate, Message
from torchtune.models.gemma import gemma_tokenizer
from torchtune.models.smollm2 import smollm2_tokenizer
from torchtune.tokenizers import HFTokenizer, _tiktoken, auto_tokenizer

HELLO: list[Message] = [Message(role="user", content="hello")]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setattr(_tiktoken, "N_RANKS", LLAMA3_RANKS)
    return KINDS[request.param]


@pytest.fixture
def folder(kind: Kind, tmp_path: Path) -> Path:
    return kind.write(tmp_path / "tokenizer")


def template(tokenizer: Any) -> ChatTemplate:
    found = tokenizer.chat_template
    assert isinstance(found, ChatTemplate)
    return found


def test_without_options_nothing_is_set(kind: Kind, folder: Path) -> None:
    tokenizer = kind.load(str(folder))
    assert tokenizer.content_tokens == frozenset()
    assert tokenizer.chat_template is None
    nulls: dict[str, Any] = dict.fromkeys(("chat_template", "template_arguments", "date", "stop_tokens"))
    assert kind.load(str(folder), **nulls).fingerprint() == tokenizer.fingerprint()


def test_a_template_of_ones_own(kind: Kind, folder: Path, tmp_path: Path) -> None:
    set_config(folder, chat_template="stored")
    (tmp_path / "mine.jinja").write_text("mine")
    assert template(kind.load(str(folder))).source == "stored"
    mine = kind.load(str(folder), chat_template=str(tmp_path / "mine.jinja"))
    assert template(mine).source == "mine"
    assert template(pickle.loads(pickle.dumps(mine))).source == "mine"
    assert template(kind.load(str(folder), chat_template="default")).source == "stored"


def test_a_template_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jinja").write_text("mine")
    tokenizer = HFTokenizer(str(write_hf(tmp_path / "t")), chat_template="~/mine.jinja")
    assert template(tokenizer).source == "mine"


def test_a_template_that_is_nowhere(kind: Kind, folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"chat_template: 'tool_us' is neither a file nor a template stored in"
    ):
        kind.load(str(folder), chat_template="tool_us")
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    set_config(folder, chat_template=named)
    for name in ("tool_us", "", ".", "no/such.jinja"):
        with pytest.raises(ValueError, match=r"neither a file .* \(stored: default, tool_use\)"):
            kind.load(str(folder), chat_template=name)


def test_a_template_of_ones_own_that_is_damaged(kind: Kind, folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for %}")
    with pytest.raises(ValueError, match=r"mine.jinja: the chat template is not valid Jinja: line 1"):
        kind.load(str(folder), chat_template=str(mine))
    mine.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"mine.jinja is not a text in UTF-8 .*; save it as UTF-8"):
        kind.load(str(folder), chat_template=str(mine))


def test_arguments_reach_the_template(kind: Kind, folder: Path) -> None:
    set_config(folder, chat_template=TEMPLATE)
    tokenizer = kind.load(str(folder), template_arguments={"enable_thinking": True})
    for loaded in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        assert template(loaded).arguments == {"enable_thinking": True}
        assert template(loaded).render(HELLO, add_generation_prompt=True).text.endswith("<think>")
    without = template(kind.load(str(folder)))
    assert not without.render(HELLO, add_generation_prompt=True).text.endswith("<think>")


def test_the_date_reaches_the_template(kind: Kind, folder: Path) -> None:
    set_config(folder, chat_template="{{ strftime_now('%Y-%m-%d') }}")
    tokenizer = kind.load(str(folder), date="2024-07-26")
    assert template(tokenizer).date == template(pickle.loads(pickle.dumps(tokenizer))).date == "2024-07-26"


@pytest.mark.parametrize(
    "date", ["2024-7-26", "26.07.2024", "2024-02-30", "20240726", "", "2024-W30-5", 20240726]
)
def test_a_date_that_is_none(date: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"date: expected YYYY-MM-DD, such as '2024-07-26', got "):
        HFTokenizer(str(write_hf(tmp_path)), date=date)


@pytest.mark.parametrize("options", [{"date": "2024-07-26"}, {"template_arguments": {"a": 1}}])
def test_what_only_a_template_uses_is_an_error_without_one(
    kind: Kind, folder: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    (name,) = options
    with pytest.raises(
        ValueError, match=rf"{name}: without effect, since .* has no chat template; set chat_"
    ):
        kind.load(str(folder), **options)
    (tmp_path / "mine.jinja").write_text("{{ a }}{{ strftime_now('%Y') }}")
    kind.load(str(folder), chat_template=str(tmp_path / "mine.jinja"), **options)


@pytest.mark.parametrize("arguments", [["a"], {1: 2}, {"a": {1j}}, {"a": object()}, "a"])
def test_arguments_of_a_wrong_type(arguments: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"template_arguments: expected "):
        HFTokenizer(str(write_hf(tmp_path)), template_arguments=arguments)


def test_stop_tokens_are_added(kind: Kind, folder: Path) -> None:
    before, tokenizer = kind.load(str(folder)), kind.load(str(folder), stop_tokens=[kind.stop])
    (stop,) = tokenizer.stop_ids - before.stop_ids
    assert before.stop_ids < tokenizer.stop_ids
    assert stop in tokenizer.encode(f"hello{kind.stop}", add_eos=False)
    assert pickle.loads(pickle.dumps(tokenizer)).stop_ids == tokenizer.stop_ids
    special = kind.load(str(folder), stop_tokens=(kind.marker,))
    assert special.stop_ids == before.stop_ids | {before.special_tokens[kind.marker]}
    assert special.content_tokens == frozenset()


@pytest.mark.parametrize("option", ["stop_tokens", "special_tokens_in_content"])
def test_a_token_that_is_none(kind: Kind, folder: Path, option: str) -> None:
    near = kind.marker[:-2] + kind.marker[-1:]
    with pytest.raises(
        ValueError, match=rf"^{option}: '.*' is not a token of the vocabulary; did you mean '.*'\?$"
    ):
        kind.load(str(folder), **{option: [near]})
    for token in ("two words", "", "\ue000\ue001"):
        with pytest.raises(ValueError, match=rf"^{option}: .* is not a token of the vocabulary; name one"):
            kind.load(str(folder), **{option: [token]})
    for wrong in (kind.marker, 3, [3], {"a": 1}):
        with pytest.raises(ValueError, match=rf"^{option}: expected a list of tokens, got "):
            kind.load(str(folder), **{option: wrong})


def test_what_stands_for_unknown_text_is_no_stop_token(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<unk>": 0, "</s>": 1, "word": 2}, unk_token="<unk>"))
    folder = set_config(
        write(tmp_path, tokenizer__json=backend.to_str()), unk_token="<unk>", eos_token="</s>"
    )
    assert HFTokenizer(str(folder), stop_tokens=["word", "<unk>"]).stop_ids == {0, 1, 2}
    with pytest.raises(ValueError, match=r"stop_tokens: 'nothing' is not a token of the vocabulary"):
        HFTokenizer(str(folder), stop_tokens=["nothing"])


def test_content_tokens_are_encoded_as_what_they_name(kind: Kind, folder: Path) -> None:
    before = kind.load(str(folder))
    tokenizer = kind.load(str(folder), special_tokens_in_content=[kind.marker])
    marker = before.special_tokens[kind.marker]
    text = f"{kind.marker}words{kind.marker}, the words"
    assert tokenizer.content_tokens == {kind.marker}
    assert marker not in before.encode(text)
    for loaded in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        ids = loaded.encode(text, add_bos=False, add_eos=False)
        assert ids == loaded.encode_template(text)
        assert ids.count(marker) == 2
        assert loaded.decode(loaded.encode(text)) == text
    assert tokenizer.special_tokens == before.special_tokens
    assert (tokenizer.vocab_size, tokenizer.stop_ids) == (before.vocab_size, before.stop_ids)


def test_texts_without_content_tokens_are_encoded_as_before(kind: Kind, folder: Path) -> None:
    before = kind.load(str(folder))
    tokenizer = kind.load(str(folder), special_tokens_in_content=[kind.marker])
    for text in [*TEXTS, *SPECIAL_TEXTS, kind.marker[:-1], f" {kind.marker[1:]}"]:
        assert tokenizer.encode(text) == before.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == before.decode(before.encode(text))


def test_other_special_tokens_stay_text_beside_content_tokens(kind: Kind, folder: Path) -> None:
    tokenizer = kind.load(str(folder), special_tokens_in_content=[kind.marker])
    others = [text for text in tokenizer.special_tokens if text != kind.marker][:8]
    for other in others:
        text = f"words {other} words{kind.marker}{other}"
        ids = tokenizer.encode(text, add_bos=False, add_eos=False)
        found = {*ids} & {*tokenizer.special_tokens.values()}
        assert found == {tokenizer.special_tokens[kind.marker]}
        assert tokenizer.decode(ids) == text
    plain = f"words {others[0]}{kind.marker}"
    assert tokenizer.encode_template(plain, [(0, len(plain))]) == kind.load(str(folder)).encode(
        plain, add_bos=False, add_eos=False
    ), "encode_template is as it was"


def test_a_plain_token_is_no_content_token(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"special_tokens_in_content: '<tool>' is not a special token, so that"
    ):
        HFTokenizer(str(write_hf(tmp_path)), special_tokens_in_content=["<tool>"])


def test_the_fingerprint_depends_on_every_option(kind: Kind, folder: Path, tmp_path: Path) -> None:
    set_config(folder, chat_template=TEMPLATE + "{% if 0 %}{{ strftime_now('%Y') }}{% endif %}")
    mine = tmp_path / "mine.jinja"
    mine.write_text("one")
    options: list[dict[str, Any]] = [
        {},
        {"template_arguments": {"enable_thinking": True}},
        {"template_arguments": {"enable_thinking": False}},
        {"date": "2024-07-26"},
        {"date": "2024-07-27"},
        {"stop_tokens": [kind.stop]},
        {"special_tokens_in_content": [kind.marker]},
        {"chat_template": str(mine)},
    ]
    found = [kind.load(str(folder), **o).fingerprint() for o in options]
    assert len({*found}) == len(options)
    assert found == [kind.load(str(folder), **o).fingerprint() for o in options]
    mine.write_text("two")
    assert kind.load(str(folder), chat_template=str(mine)).fingerprint() not in found


def test_a_misspelt_option_is_an_error_in_python(kind: Kind, folder: Path) -> None:
    with pytest.raises(
        TypeError, match=r"a tokenizer has no option 'stop_tokenss'; did you mean 'stop_tokens'\?"
    ):
        kind.load(str(folder), stop_tokenss=["a"])


def test_the_kind_is_found_and_gets_the_options(kind: Kind, folder: Path) -> None:
    tokenizer = auto_tokenizer(str(folder), stop_tokens=[kind.stop], special_tokens_in_content=[kind.marker])
    assert isinstance(tokenizer, kind.load)
    assert tokenizer.content_tokens == {kind.marker}
    for file in (f for f in sorted(folder.iterdir()) if f.name != "tokenizer_config.json"):
        assert auto_tokenizer(str(file)).fingerprint() == kind.load(str(folder)).fingerprint()


def test_what_only_sentencepiece_uses_is_an_error_elsewhere(kind: Kind, folder: Path) -> None:
    if kind is KINDS["sentencepiece"]:
        assert "▁these" in auto_tokenizer(str(folder), special_tokens=["▁these", "none"]).special_tokens
        return
    with pytest.raises(
        ValueError, match=r"special_tokens: without effect, since .* is not a SentencePiece model"
    ):
        auto_tokenizer(str(folder), special_tokens=["the"])


def test_a_family_keeps_its_own_stop_tokens(tmp_path: Path) -> None:
    backend = json.loads(
        (write_hf(tmp_path) / "tokenizer.json").read_text().replace("<think>", "<end_of_turn>")
    )
    write(tmp_path, tokenizer__json=json.dumps(backend))
    tokenizer = gemma_tokenizer(str(tmp_path), stop_tokens=["<tool>"])
    assert tokenizer.stop_ids == {2, 300, 302}


# From a config


def test_a_config_passes_them(tmp_path: Path) -> None:
    folder = set_config(write_hf(tmp_path), chat_template=TEMPLATE)
    made = lazy(
        smollm2_tokenizer,
        path=str(folder),
        template_arguments={"enable_thinking": True},
        stop_tokens=["<tool>"],
        special_tokens_in_content=["<think>", "</think>"],
    )
    tokenizer = instantiate(made)
    assert tokenizer.content_tokens == {"<think>", "</think>"}
    assert template(tokenizer).arguments == {"enable_thinking": True}
    with pytest.raises(InstantiationError, match=r"takes no 'stop_tokenss'; did you mean 'stop_tokens'\?"):
        instantiate(lazy(smollm2_tokenizer, path="x", stop_tokenss=["a"]))  # type: ignore[call-arg]  # the mistake
    with pytest.raises(InstantiationError, match=r"date: expected YYYY-MM-DD, .* got '1.2.2024'"):
        instantiate(lazy(smollm2_tokenizer, path=str(folder), date="1.2.2024"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("template_arguments.enable_thinking=false", {"template_arguments": {"enable_thinking": False}}),
        ("template_arguments={level: high, n: 2}", {"template_arguments": {"level": "high", "n": 2}}),
        ("date=2024-07-26", {"date": "2024-07-26"}),
        ("stop_tokens=[<|end|>, '</s>']", {"stop_tokens": ["<|end|>", "</s>"]}),
        ("special_tokens_in_content=[<think>]", {"special_tokens_in_content": ["<think>"]}),
        ("chat_template=tool_use", {"chat_template": "tool_use"}),
        ("chat_template=null", {"chat_template": None}),
    ],
)
def test_the_command_line_passes_them(override: str, expected: dict[str, Any]) -> None:
    layers = runs.config_layers("smollm2_135m_lora", LoraFinetuneConfig)
    name, _, text = override.partition("=")
    runs.override(layers, [(f"tokenizer.{name}", text)])
    keywords = layers.build("the config").tokenizer.keywords
    assert {name: keywords[name] for name in expected} == expected


def test_the_working_folder_may_hold_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_hf(tmp_path / "t")
    (tmp_path / "mine.jinja").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert template(HFTokenizer(str(folder), chat_template="mine.jinja")).source == "mine"
