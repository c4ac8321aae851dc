"""Tokenizer options take effect in every tokenizer class, or raise an error."""

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
from tests.tokenizers.texts import SPECIAL_TEXTS, TEXTS
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
    chat_template = tokenizer.chat_template
    assert isinstance(chat_template, ChatTemplate)
    return chat_template


def test_null_options_match_unset_options(kind: Kind, folder: Path) -> None:
    tokenizer = kind.load(str(folder))
    assert tokenizer.content_tokens == frozenset()
    assert tokenizer.chat_template is None
    nulls: dict[str, Any] = dict.fromkeys(("chat_template", "template_arguments", "date", "stop_tokens"))
    assert kind.load(str(folder), **nulls).fingerprint() == tokenizer.fingerprint()


def test_chat_template_selects_a_file_or_a_stored_template(kind: Kind, folder: Path, tmp_path: Path) -> None:
    set_config(folder, chat_template="stored")
    (tmp_path / "mine.jinja").write_text("mine")
    assert template(kind.load(str(folder))).source == "stored"
    custom = kind.load(str(folder), chat_template=str(tmp_path / "mine.jinja"))
    assert template(custom).source == "mine"
    assert template(pickle.loads(pickle.dumps(custom))).source == "mine"
    assert template(kind.load(str(folder), chat_template="default")).source == "stored"


def test_a_template_path_may_start_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jinja").write_text("mine")
    tokenizer = HFTokenizer(str(write_hf(tmp_path / "t")), chat_template="~/mine.jinja")
    assert template(tokenizer).source == "mine"


def test_an_unknown_template_is_rejected(kind: Kind, folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"chat_template: 'tool_us' is neither a file nor a template stored in"
    ):
        kind.load(str(folder), chat_template="tool_us")
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    set_config(folder, chat_template=named)
    for name in ("tool_us", "", ".", "no/such.jinja"):
        with pytest.raises(ValueError, match=r"neither a file .* \(stored: default, tool_use\)"):
            kind.load(str(folder), chat_template=name)


def test_the_error_for_a_damaged_template_names_its_file(kind: Kind, folder: Path, tmp_path: Path) -> None:
    custom = tmp_path / "mine.jinja"
    custom.write_text("{% for %}")
    with pytest.raises(ValueError, match=r"mine.jinja: the chat template is not valid Jinja: line 1"):
        kind.load(str(folder), chat_template=str(custom))
    custom.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"mine.jinja is not UTF-8 text .*; save it as UTF-8"):
        kind.load(str(folder), chat_template=str(custom))


def test_arguments_are_passed_to_the_template(kind: Kind, folder: Path) -> None:
    set_config(folder, chat_template=TEMPLATE)
    tokenizer = kind.load(str(folder), template_arguments={"enable_thinking": True})
    for loaded in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        assert template(loaded).arguments == {"enable_thinking": True}
        assert template(loaded).render(HELLO, add_generation_prompt=True).text.endswith("<think>")
    default = template(kind.load(str(folder)))
    assert not default.render(HELLO, add_generation_prompt=True).text.endswith("<think>")


def test_the_date_is_passed_to_the_template(kind: Kind, folder: Path) -> None:
    set_config(folder, chat_template="{{ strftime_now('%Y-%m-%d') }}")
    tokenizer = kind.load(str(folder), date="2024-07-26")
    assert template(tokenizer).date == template(pickle.loads(pickle.dumps(tokenizer))).date == "2024-07-26"


@pytest.mark.parametrize(
    "date", ["2024-7-26", "26.07.2024", "2024-02-30", "20240726", "", "2024-W30-5", 20240726]
)
def test_an_invalid_date_is_rejected(date: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"date: expected YYYY-MM-DD, such as '2024-07-26', got "):
        HFTokenizer(str(write_hf(tmp_path)), date=date)


@pytest.mark.parametrize("options", [{"date": "2024-07-26"}, {"template_arguments": {"a": 1}}])
def test_template_options_raise_without_a_template(
    kind: Kind, folder: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    (name,) = options
    with pytest.raises(
        ValueError, match=rf"{name} has no effect, because .* has no chat template; set chat_"
    ):
        kind.load(str(folder), **options)
    (tmp_path / "mine.jinja").write_text("{{ a }}{{ strftime_now('%Y') }}")
    kind.load(str(folder), chat_template=str(tmp_path / "mine.jinja"), **options)


@pytest.mark.parametrize("arguments", [["a"], {1: 2}, {"a": {1j}}, {"a": object()}, "a"])
def test_invalid_template_arguments_are_rejected(arguments: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"template_arguments: expected "):
        HFTokenizer(str(write_hf(tmp_path)), template_arguments=arguments)


def test_stop_tokens_are_added(kind: Kind, folder: Path) -> None:
    before, tokenizer = kind.load(str(folder)), kind.load(str(folder), stop_tokens=[kind.stop])
    (stop,) = tokenizer.stop_ids - before.stop_ids
    assert before.stop_ids < tokenizer.stop_ids
    assert stop in tokenizer.encode(f"hello{kind.stop}", add_eos=False)
    assert pickle.loads(pickle.dumps(tokenizer)).stop_ids == tokenizer.stop_ids
    special = kind.load(str(folder), stop_tokens=(kind.content_token,))
    assert special.stop_ids == before.stop_ids | {before.special_tokens[kind.content_token]}
    assert special.content_tokens == frozenset()


@pytest.mark.parametrize("option", ["stop_tokens", "special_tokens_in_content"])
def test_unknown_tokens_are_rejected(kind: Kind, folder: Path, option: str) -> None:
    misspelled = kind.content_token[:-2] + kind.content_token[-1:]
    with pytest.raises(ValueError, match=rf"^{option}: '.*' is not in the vocabulary; did you mean '.*'\?$"):
        kind.load(str(folder), **{option: [misspelled]})
    for token in ("two words", "", "\ue000\ue001"):
        with pytest.raises(ValueError, match=rf"^{option}: .* is not in the vocabulary; remove it"):
            kind.load(str(folder), **{option: [token]})
    for invalid in (kind.content_token, 3, [3], {"a": 1}):
        with pytest.raises(ValueError, match=rf"^{option}: expected a list of tokens, got "):
            kind.load(str(folder), **{option: invalid})


def test_text_that_encodes_as_an_unknown_token_is_rejected_as_a_stop_token(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<unk>": 0, "</s>": 1, "word": 2}, unk_token="<unk>"))
    folder = set_config(
        write(tmp_path, tokenizer__json=backend.to_str()), unk_token="<unk>", eos_token="</s>"
    )
    assert HFTokenizer(str(folder), stop_tokens=["word", "<unk>"]).stop_ids == {0, 1, 2}
    with pytest.raises(ValueError, match=r"stop_tokens: 'nothing' is not in the vocabulary"):
        HFTokenizer(str(folder), stop_tokens=["nothing"])


def test_content_tokens_are_encoded_as_tokens(kind: Kind, folder: Path) -> None:
    before = kind.load(str(folder))
    tokenizer = kind.load(str(folder), special_tokens_in_content=[kind.content_token])
    content_id = before.special_tokens[kind.content_token]
    text = f"{kind.content_token}words{kind.content_token}, the words"
    assert tokenizer.content_tokens == {kind.content_token}
    assert content_id not in before.encode(text)
    for loaded in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        ids = loaded.encode(text, add_bos=False, add_eos=False)
        assert ids == loaded.encode_template(text)
        assert ids.count(content_id) == 2
        assert loaded.decode(loaded.encode(text)) == text
    assert tokenizer.special_tokens == before.special_tokens
    assert (tokenizer.vocab_size, tokenizer.stop_ids) == (before.vocab_size, before.stop_ids)


def test_content_tokens_do_not_change_other_text(kind: Kind, folder: Path) -> None:
    before = kind.load(str(folder))
    tokenizer = kind.load(str(folder), special_tokens_in_content=[kind.content_token])
    for text in [*TEXTS, *SPECIAL_TEXTS, kind.content_token[:-1], f" {kind.content_token[1:]}"]:
        assert tokenizer.encode(text) == before.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == before.decode(before.encode(text))


def test_other_special_tokens_stay_text_with_content_tokens(kind: Kind, folder: Path) -> None:
    tokenizer = kind.load(str(folder), special_tokens_in_content=[kind.content_token])
    others = [text for text in tokenizer.special_tokens if text != kind.content_token][:8]
    for other in others:
        text = f"words {other} words{kind.content_token}{other}"
        ids = tokenizer.encode(text, add_bos=False, add_eos=False)
        special_ids = {*ids} & {*tokenizer.special_tokens.values()}
        assert special_ids == {tokenizer.special_tokens[kind.content_token]}
        assert tokenizer.decode(ids) == text
    plain = f"words {others[0]}{kind.content_token}"
    assert tokenizer.encode_template(plain, [(0, len(plain))]) == kind.load(str(folder)).encode(
        plain, add_bos=False, add_eos=False
    ), "`encode_template` itself is unchanged"


def test_an_ordinary_token_is_rejected_as_a_content_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"special_tokens_in_content: '<tool>' is not a special token, so"):
        HFTokenizer(str(write_hf(tmp_path)), special_tokens_in_content=["<tool>"])


def test_the_fingerprint_depends_on_every_option(kind: Kind, folder: Path, tmp_path: Path) -> None:
    set_config(folder, chat_template=TEMPLATE + "{% if 0 %}{{ strftime_now('%Y') }}{% endif %}")
    custom = tmp_path / "mine.jinja"
    custom.write_text("one")
    options: list[dict[str, Any]] = [
        {},
        {"template_arguments": {"enable_thinking": True}},
        {"template_arguments": {"enable_thinking": False}},
        {"date": "2024-07-26"},
        {"date": "2024-07-27"},
        {"stop_tokens": [kind.stop]},
        {"special_tokens_in_content": [kind.content_token]},
        {"chat_template": str(custom)},
    ]
    fingerprints = [kind.load(str(folder), **o).fingerprint() for o in options]
    assert len({*fingerprints}) == len(options)
    assert fingerprints == [kind.load(str(folder), **o).fingerprint() for o in options]
    custom.write_text("two")
    assert kind.load(str(folder), chat_template=str(custom)).fingerprint() not in fingerprints


def test_a_misspelled_option_raises_in_python(kind: Kind, folder: Path) -> None:
    with pytest.raises(
        TypeError, match=r"a tokenizer has no option 'stop_tokenss'; did you mean 'stop_tokens'\?"
    ):
        kind.load(str(folder), stop_tokenss=["a"])


def test_auto_tokenizer_detects_the_class_and_passes_the_options(kind: Kind, folder: Path) -> None:
    tokenizer = auto_tokenizer(
        str(folder), stop_tokens=[kind.stop], special_tokens_in_content=[kind.content_token]
    )
    assert isinstance(tokenizer, kind.load)
    assert tokenizer.content_tokens == {kind.content_token}
    for file in (f for f in sorted(folder.iterdir()) if f.name != "tokenizer_config.json"):
        assert auto_tokenizer(str(file)).fingerprint() == kind.load(str(folder)).fingerprint()


def test_special_tokens_argument_is_only_for_sentencepiece(kind: Kind, folder: Path) -> None:
    if kind is KINDS["sentencepiece"]:
        assert "▁these" in auto_tokenizer(str(folder), special_tokens=["▁these", "none"]).special_tokens
        return
    with pytest.raises(
        ValueError, match=r"special_tokens has no effect, because .* is not a SentencePiece model"
    ):
        auto_tokenizer(str(folder), special_tokens=["the"])


def test_a_family_keeps_its_default_stop_tokens(tmp_path: Path) -> None:
    backend = json.loads(
        (write_hf(tmp_path) / "tokenizer.json").read_text().replace("<think>", "<end_of_turn>")
    )
    write(tmp_path, tokenizer__json=json.dumps(backend))
    tokenizer = gemma_tokenizer(str(tmp_path), stop_tokens=["<tool>"])
    assert tokenizer.stop_ids == {2, 300, 302}


# Options in configs and on the command line


def test_a_config_passes_options(tmp_path: Path) -> None:
    folder = set_config(write_hf(tmp_path), chat_template=TEMPLATE)
    component = lazy(
        smollm2_tokenizer,
        path=str(folder),
        template_arguments={"enable_thinking": True},
        stop_tokens=["<tool>"],
        special_tokens_in_content=["<think>", "</think>"],
    )
    tokenizer = instantiate(component)
    assert tokenizer.content_tokens == {"<think>", "</think>"}
    assert template(tokenizer).arguments == {"enable_thinking": True}
    with pytest.raises(
        InstantiationError, match=r"has no argument 'stop_tokenss'; did you mean 'stop_tokens'\?"
    ):
        instantiate(lazy(smollm2_tokenizer, path="x", stop_tokenss=["a"]))  # type: ignore[call-arg]  # misspelled on purpose
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
def test_the_command_line_passes_options(override: str, expected: dict[str, Any]) -> None:
    layers = runs.config_layers("smollm2_135m_lora", LoraFinetuneConfig)
    name, _, text = override.partition("=")
    runs.override(layers, [(f"tokenizer.{name}", text)])
    keywords = layers.build("the config").tokenizer.keywords
    assert {name: keywords[name] for name in expected} == expected


def test_a_template_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_hf(tmp_path / "t")
    (tmp_path / "mine.jinja").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert template(HFTokenizer(str(folder), chat_template="mine.jinja")).source == "mine"
