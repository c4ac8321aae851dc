"""Prompts out of files, and written out as a model was taught to read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import Message, alpaca_prompt
from torchtune.generation import Prompt, encode_prompt, pick_template, read_prompts

USER = Message(role="user", content="Hello?")
TURNS = [USER, Message(role="assistant", content="Yes?"), Message(role="user", content="Who?")]
ROWS: list[Any] = [
    {"instruction": "Sum up.", "input": "A text.", "output": "It."},
    {"prompt": "Go on"},
    "A text alone",
    {"messages": [*TURNS, {"role": "assistant", "content": "Me."}], "id": 7},
]
EXPECTED = [
    Prompt([Message(role="user", content="Sum up.")], "A text."),
    Prompt([Message(role="user", content="Go on")]),
    Prompt([Message(role="user", content="A text alone")]),
    Prompt(TURNS),
]


def test_rows_of_every_kind_are_read_with_their_fields(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    lines = "\n".join(map(json.dumps, ROWS)) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    for name in ("a.json", "a.jsonl"):
        found = read_prompts(tmp_path / name)
        assert found == EXPECTED
        assert [prompt.row for prompt in found] == [
            ROWS[0],
            ROWS[1],
            {"prompt": "A text alone"},
            ROWS[3],
        ]


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Who are you?\n\n  Naïve?\n", encoding="utf-8")
    found = read_prompts(str(tmp_path / "a.txt"))
    assert [prompt.text for prompt in found] == ["Who are you?", "  Naïve?"]
    assert found[0].row == {"prompt": "Who are you?"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: a file of prompts is a .txt, .json or .jsonl"),
        ("a.txt", "\n \n", "a.txt holds no prompt"),
        ("a.json", "[]", "a.json holds no prompt"),
        ("a.json", '{"prompt": "a"}', "a.json: a list of rows is expected, it holds a row with prompt"),
        ("a.json", "[1", "a.json is not valid JSON: "),
        ("a.jsonl", '"a"\n{"a": 1', "a.jsonl:2 is not valid JSON: "),
        ("a.jsonl", '"a"\n\n{"text": "a", "b": 1}', "a.jsonl:3: a prompt is a text, or a row with one of"),
        ("a.jsonl", '"a"\n\n{"text": "a", "b": 1}', "this one is a row with text, b"),
        (
            "a.json",
            '[{"prompt": "a", "messages": []}]',
            "row 1: a prompt is .* a row with prompt and messages",
        ),
        ("a.json", "[[]]", "row 1: a prompt is .* this one is a list"),
        ("a.json", "[null]", "row 1: a prompt is .* this one is null"),
        ("a.json", "[{}]", "this one is a row with nothing"),
        ("a.json", '[{"prompt": ""}]', "row 1: prompt is to be a text with something in it, got ''"),
        ("a.json", '["a", {"instruction": 5}]', "row 2: instruction is to be a text .* got 5"),
        ("a.json", '[{"instruction": "a", "input": 5}]', "row 1: input is to be a text .* got 5"),
        ("a.json", '[{"messages": "a"}]', "row 1: messages is a list of objects with two texts"),
        ("a.json", '[{"messages": [{"from": "a"}]}]', "row 1: messages is a list of objects with two texts"),
        ("a.json", '[{"messages": [{"role": "user", "content": [1]}]}]', "a list of objects with two texts"),
        ("a.json", '[{"messages": []}]', "row 1: messages has no turn that is to be answered"),
        ("a.json", '[{"messages": [{"role": "assistant", "content": "a"}]}]', "no turn that is to be"),
        ("a.json", '[{"messages": [{"role": "system", "content": "a"}]}]', "no turn that is to be answered"),
        ("a.json", '[""]', "row 1: a prompt is to be a text with something in it, got ''"),
    ],
)
def test_mistakes_in_a_file_say_where(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.txt; prompts were to be read from it"):
        read_prompts(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt is not a text in UTF-8"):
        read_prompts(tmp_path / "a.txt")


def test_templates_write_prompts_out_each_in_its_way() -> None:
    tokenizer, prompt = ByteTokenizer(), EXPECTED[0]
    decoded = {
        name: tokenizer.decode(encode_prompt(tokenizer, prompt, name)) for name in ("alpaca", "plain", "chat")
    }
    assert decoded == {
        "alpaca": "<|bos|>" + alpaca_prompt("Sum up.", "A text."),
        "plain": "<|bos|>Sum up.\n\nA text.",
        "chat": "<|im_start|>user\nSum up.\n\nA text.<|im_end|>\n<|im_start|>assistant\n",
    }


def test_a_chat_keeps_its_turns_and_its_own_system() -> None:
    tokenizer = ByteTokenizer()
    text = tokenizer.decode(encode_prompt(tokenizer, EXPECTED[3], "chat", "Be brief."))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = Prompt([Message(role="system", content="Be kind."), USER])
    text = tokenizer.decode(encode_prompt(tokenizer, own, "chat", "Be brief."))
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")


def test_the_template_is_the_tokenizers_if_it_has_one() -> None:
    assert pick_template(ByteTokenizer(), "auto", "Be brief.") == "chat"
    assert pick_template(ByteTokenizer(template=None), "auto") == "plain"
    assert pick_template(ByteTokenizer(), "plain") == "plain"


@pytest.mark.parametrize(
    ("template", "asked", "system", "message"),
    [
        (None, "chat", None, "the tokenizer has no chat template"),
        (None, "auto", "Be brief.", "for which the tokenizer needs a chat template"),
        ("{{ messages[0]['content'] }}", "chat", None, "the chat template"),
        (None, "alpaca", "Be brief.", "system: the alpaca template has no place for one"),
        (None, "vicuna", None, "template: expected one of auto, chat, alpaca, plain, got 'vicuna'"),
    ],
)
def test_templates_that_cannot_be_are_refused(
    template: str | None, asked: Any, system: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pick_template(ByteTokenizer(template=template), asked, system)


def test_a_template_without_turns_takes_one_alone() -> None:
    with pytest.raises(ValueError, match="the alpaca template has no place for the 3 turns of a conv"):
        encode_prompt(ByteTokenizer(), EXPECTED[3], "alpaca")
