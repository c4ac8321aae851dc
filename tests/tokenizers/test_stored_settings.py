"""Datasets work with stored limits, unusual end tokens, custom templates and every kind of tokenizer file."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from tests.models.tiny import TEMPLATE, tiny_tokenizer, tokenizer_config, write
from tests.tokenizers.kinds import KINDS, LLAMA3_RANKS, Kind, set_config, write_bpe, write_hf
from torchtune.config import instantiate, lazy
from torchtune.data import Batches, Example, Pair
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset, TextCompletionDataset
from torchtune.generation import Prompt, encode_prompt, pick_template
from torchtune.models.smollm2 import smollm2_tokenizer
from torchtune.tokenizers import HFTokenizer, _tiktoken, auto_tokenizer

TASKS = [{"instruction": f"the words {i} " * 30, "output": "these digits " * (20 + i)} for i in range(4)]


def write_tokenizer(folder: Path, *, eos: str = "<|im_end|>", **limits: Any) -> Path:
    """Write a tokenizer like SmolLM2's, with stored limits and an end token."""
    backend = tiny_tokenizer()
    backend.add_tokens([AddedToken("<think>", special=True, normalized=False)])
    if "truncation" in limits:
        backend.enable_truncation(**limits["truncation"])
    if "padding" in limits:
        backend.enable_padding(**limits["padding"])
    write(folder, tokenizer__json=backend.to_str())
    return set_config(folder, **{**tokenizer_config(), "eos_token": eos})


# Stored truncation and padding

LIMITS: list[dict[str, Any]] = [
    {"truncation": {"max_length": 16}},
    {"padding": {"pad_to_multiple_of": 8, "pad_token": "<|endoftext|>"}},
    {"truncation": {"max_length": 7, "direction": "left"}, "padding": {"length": 2048, "direction": "left"}},
]


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("limits", LIMITS, ids=["truncated", "padded", "both"])
@pytest.mark.parametrize("load", [HFTokenizer, auto_tokenizer, smollm2_tokenizer])
def test_stored_limits_do_not_change_rows(load: Any, limits: dict[str, Any], tmp_path: Path) -> None:
    limited = load(str(write_tokenizer(tmp_path / "limited", **limits)))
    unlimited = load(str(write_tokenizer(tmp_path / "free")))
    reference: Any = AutoTokenizer.from_pretrained(tmp_path / "limited")
    datasets: list[Any] = [
        lazy(InstructDataset, source=TASKS),
        lazy(InstructDataset, source=TASKS, template="alpaca"),
        lazy(TextCompletionDataset, source=[{"text": task["output"] * 9} for task in TASKS], max_seq_len=50),
        lazy(
            PreferenceDataset, source=[{"prompt": "the words", "chosen": "these", "rejected": "more " * 40}]
        ),
    ]
    for dataset in datasets:
        expected = dataset(unlimited)
        for tokenizer in (limited, pickle.loads(pickle.dumps(limited))):
            actual = dataset(tokenizer)
            assert [actual[i] for i in range(len(actual))] == [expected[i] for i in range(len(expected))]
    first = InstructDataset(limited, TASKS)[0]
    assert isinstance(first, Example)
    turns = [
        {"role": "user", "content": TASKS[0]["instruction"]},
        {"role": "assistant", "content": TASKS[0]["output"]},
    ]
    full = reference.apply_chat_template(turns, return_dict=True, truncation=False, padding=False)[
        "input_ids"
    ]
    assert first.tokens == full[: len(first.tokens)]
    assert len(full) - len(first.tokens) < 3, "only a line break follows the last answer"
    prompt = encode_prompt(limited, Prompt.from_text(TASKS[0]["instruction"]), "chat")
    assert first.tokens[: len(prompt)] == prompt
    with Batches(InstructDataset(limited, TASKS), 1, shuffle=False, seed=0, pad_id=limited.pad_id) as batches:
        assert next(batches).n_padding == 0


def test_limits_in_the_config_are_not_applied(tmp_path: Path) -> None:
    folder = set_config(
        write_tokenizer(tmp_path), model_max_length=16, padding_side="left", truncation_side="left"
    )
    row = InstructDataset(HFTokenizer(str(folder)), TASKS)[0]
    assert isinstance(row, Example)
    assert len(row.tokens) > 100


# Stop tokens


@pytest.mark.parametrize("generation", [{}, {"config": [0, 2]}, {"generation_config": 2}])
def test_a_turn_end_other_than_eos_must_be_a_stop_token(generation: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, eos="<|endoftext|>")
    for name, ids in generation.items():
        write(folder, **{f"{name}__json": json.dumps({"eos_token_id": ids})})
    tokenizer = auto_tokenizer(str(folder))
    datasets: list[Any] = [
        lazy(ChatDataset, source=[{"prompt": "the words", "completion": "these"}]),
        lazy(InstructDataset, source=TASKS),
        lazy(PreferenceDataset, source=[{"prompt": "a", "chosen": "b", "rejected": "c"}]),
    ]
    end = 2
    if not generation:
        message = r"'<\|im_end\|>' follows the answer: if it ends a turn, set tokenizer.stop_tokens=\['<\|im_end\|>'\]"
        for dataset in datasets:
            with pytest.raises(ValueError, match=message):
                dataset(tokenizer)
        with pytest.raises(ValueError, match=message):
            pick_template(tokenizer, "chat")
        tokenizer = auto_tokenizer(str(folder), stop_tokens=["<|im_end|>"])
    assert tokenizer.stop_ids == {0, end}
    assert tokenizer.eos_id == 0
    for dataset in datasets:
        row = dataset(tokenizer)[0]
        for example in [row.chosen, row.rejected] if isinstance(row, Pair) else [row]:
            assert example.tokens[-1] == example.labels[-1] == end
    text = TextCompletionDataset(tokenizer, [{"text": "these words"}])[0]
    assert isinstance(text, list)
    assert text[0].tokens[-1] == 0, "plain text still ends with EOS"


def test_a_misspelled_stop_token_in_a_config_raises(tmp_path: Path) -> None:
    component = lazy(auto_tokenizer, path=str(write_tokenizer(tmp_path)), stop_tokens=["<|im_ende|>"])
    with pytest.raises(
        ValueError, match=r"'<\|im_ende\|>' is not in the vocabulary; did you mean '<\|im_end\|>'"
    ):
        instantiate(component)


# Custom templates and template arguments

THINKING = TEMPLATE.replace(
    "message['content']",
    "('<think>' + message['thinking'] + '</think>' if message.thinking and enable_thinking else '')"
    " + message['content']",
)


def test_template_arguments_change_the_rendered_text(tmp_path: Path) -> None:
    folder = set_config(write_tokenizer(tmp_path), chat_template=THINKING)
    row = {
        "prompt": "the words",
        "completion": [{"role": "assistant", "content": "these", "reasoning": "digits"}],
    }
    with pytest.raises(
        ValueError, match=r"try tokenizer\.template_arguments \(the template uses enable_thinking\)"
    ):
        ChatDataset(HFTokenizer(str(folder)), [row])
    reference: Any = AutoTokenizer.from_pretrained(folder)
    turns = [
        {"role": "user", "content": "the words"},
        {"role": "assistant", "content": "these", "thinking": "digits"},
    ]
    for arguments in ({"enable_thinking": True}, {"enable_thinking": "yes"}):
        tokenizer = HFTokenizer(
            str(folder), template_arguments=arguments, special_tokens_in_content=["<think>"]
        )
        example = ChatDataset(tokenizer, [row])[0]
        assert isinstance(example, Example)
        ids = reference.apply_chat_template(turns, return_dict=True, **arguments)["input_ids"]
        assert example.tokens == ids[: len(example.tokens)]
        assert tokenizer.special_tokens["<think>"] in example.labels
    with pytest.raises(
        ValueError, match=r"template_arguments\.enable_thinkin: the chat template does not use it"
    ):
        HFTokenizer(str(folder), template_arguments={"enable_thinkin": True})


# All kinds of tokenizer files


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setattr(_tiktoken, "N_RANKS", LLAMA3_RANKS)
    return KINDS[request.param]


CUSTOM = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ END }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_custom_template_is_used_with_every_tokenizer_class(kind: Kind, tmp_path: Path) -> None:
    folder = kind.write(tmp_path / "tokenizer")
    plain = kind.load(str(folder))
    end = next(token for token, i in plain.special_tokens.items() if i in plain.stop_ids)
    (tmp_path / "mine.jinja").write_text(CUSTOM.replace("{{ END }}", end))
    options = {
        "chat_template": str(tmp_path / "mine.jinja"),
        "special_tokens_in_content": [kind.content_token],
    }
    tokenizer = auto_tokenizer(str(folder), **options)  # type: ignore[arg-type]  # the values have different types
    completion = f"the words {kind.content_token} these {end}"
    example = ChatDataset(tokenizer, [{"prompt": "digits", "completion": completion}])[0]
    assert isinstance(example, Example)
    prompt = encode_prompt(tokenizer, Prompt.from_text("digits"), "chat")
    assert example.tokens[: len(prompt)] == prompt
    answer = [label for label in example.labels if label >= 0]
    assert example.tokens == [*prompt, *answer]
    assert answer.count(plain.special_tokens[kind.content_token]) == 1
    assert answer.count(plain.special_tokens[end]) == 1, "the end token in the message stays text"
    assert [note.text.split("'")[1] for note in example.notes] == [end]


def test_vocab_and_merges_produce_the_same_rows_as_tokenizer_json(tmp_path: Path) -> None:
    folders = [write_hf(tmp_path / "hf"), write_bpe(tmp_path / "bpe")]
    for folder in folders:
        set_config(folder, chat_template=TEMPLATE)
    datasets: list[Any] = [
        lazy(
            ChatDataset,
            source=[{"prompt": "Größe 123 <|im_end|>", "completion": "the <think>words</think> 🎉"}],
        ),
        lazy(InstructDataset, source=TASKS, template="alpaca"),
        lazy(PreferenceDataset, source=[{"prompt": "a", "chosen": "b <tool>", "rejected": "c"}]),
    ]
    first, second = (auto_tokenizer(str(folder)) for folder in folders)
    for dataset in datasets:
        assert dataset(first)[0] == dataset(second)[0]
