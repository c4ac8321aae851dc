"""Prompts are read from files and formatted with templates."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import IGNORE_INDEX, Example, Message, alpaca_prompt
from torchtune.datasets import ChatDataset, InstructDataset
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
        prompts = read_prompts(tmp_path / name)
        assert prompts == EXPECTED
        assert [prompt.row for prompt in prompts] == [
            ROWS[0],
            ROWS[1],
            {"prompt": "A text alone"},
            ROWS[3],
        ]


def test_a_text_file_contains_one_prompt_per_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Who are you?\n\n  Naïve?\n", encoding="utf-8")
    prompts = read_prompts(str(tmp_path / "a.txt"))
    assert [prompt.text for prompt in prompts] == ["Who are you?", "  Naïve?"]
    assert prompts[0].row == {"prompt": "Who are you?"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: the file is empty"),
        ("a.txt", "\n \n", "a.txt: the file has no rows"),
        ("a.json", "[]", "a.json: the file has no rows"),
        ("a.json", "[1", "a.json: not valid JSON at column 3"),
        ("a.jsonl", '"a"\n{"a": 1', "a.jsonl: line 2: not valid JSON"),
        (
            "a.jsonl",
            '"a"\n\n{"text": "a", "b": 1}',
            "a.jsonl: line 3: expected a string, or a row with exactly one of",
        ),
        ("a.jsonl", '"a"\n\n{"text": "a", "b": 1}', "got a row with text, b"),
        (
            "a.json",
            '[{"prompt": "a", "instruction": "b"}]',
            "row 1: .* got a row with an instruction and a",
        ),
        ("a.json", "[[]]", "row 1: expected an object with named columns, or a string, got list"),
        ("a.json", "[{}]", "got an empty row"),
        ("a.json", '[{"prompt": ""}]', "row 1: prompt: expected non-empty text, got ''"),
        ("a.json", '["a", {"instruction": 5}]', "row 2: 'instruction': expected text, got 5"),
        ("a.json", '[{"instruction": "a", "input": 5}]', "row 1: 'input': expected text, got 5"),
        ("a.json", '[{"messages": "a"}]', "row 1: 'messages': expected a list of turns, got str 'a'"),
        ("a.json", '[{"messages": [{"from": "a"}]}]', "row 1: 'messages.0': expected a turn with 'role' and"),
        (
            "a.json",
            '[{"messages": [{"role": "user", "content": [1]}]}]',
            "only text parts are supported, got 1",
        ),
        ("a.json", '[{"messages": []}]', "row 1: 'messages': the conversation is empty"),
        ("a.json", '[{"messages": [{"role": "assistant", "content": "a"}]}]', "no turn to answer"),
        ("a.json", '[{"messages": [{"role": "system", "content": "a"}]}]', "no turn to answer"),
        ("a.json", '[""]', "row 1: a prompt: expected non-empty text, got ''"),
    ],
)
def test_errors_in_a_file_contain_the_location(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_the_error_for_a_missing_or_undecodable_file_contains_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"prompts file not found: .*a\.txt"):
        read_prompts(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt: .*UTF-(8|16)"):
        read_prompts(tmp_path / "a.txt")


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
AGENT = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content }}"
    "{{ m.content }}{% for c in m.tool_calls %}{{ c | tojson }}{% endfor %}{{ m.tool_call_id }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Weather in Paris?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "Rain"},
                {"role": "assistant", "content": "It rains.", "reasoning_content": "Rain, it says."},
            ],
            "tools": [TOOL],
        },
        {
            "conversations": [
                {"from": "human", "value": "Weather in Paris?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'},
                {"from": "observation", "value": "Rain"},
                {"from": "gpt", "value": "It rains."},
            ],
            "system": "Be kind.",
            "tools": json.dumps([TOOL]),
        },
        {
            "prompt": [
                {"role": "user", "content": "Weather in Paris?"},
                {
                    "role": "assistant",
                    "function_call": {"name": "weather", "arguments": '{"city": "Paris"}'},
                    "content": "",
                },
                {"role": "function", "name": "weather", "content": "Rain"},
            ],
            "completion": [{"role": "assistant", "content": "It rains."}],
            "tools": [json.dumps(TOOL)],
        },
        {
            "instruction": "Sum up.",
            "input": "A text.",
            "output": "It.",
            "history": [["a", "b"]],
            "system": "Be kind.",
        },
    ],
    ids=["openai", "sharegpt", "prompt and completion", "alpaca"],
)
def test_a_prompt_has_the_same_tokens_as_the_training_row(row: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = ByteTokenizer(AGENT)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    dataset = (InstructDataset if "instruction" in row else ChatDataset)(tokenizer, str(path))
    example = dataset[0]
    assert isinstance(example, Example)
    (prompt,) = read_prompts(path)
    tokens = encode_prompt(tokenizer, prompt, "chat")
    assert example.tokens[: len(tokens)] == tokens
    assert IGNORE_INDEX not in example.labels[len(tokens) :], "only the answer may follow the prompt"
    if "tools" in row:
        assert tokenizer.decode(tokens).count("Paris") == 2
        assert '"arguments": {"city": "Paris"}' in tokenizer.decode(tokens)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_unusual_line_separators_do_not_split_prompts(name: str, tmp_path: Path) -> None:
    texts = ["One\x85two", "form\x0cfeed", "three\u2028four"]
    lines = {
        "a.txt": "\n".join(texts),
        "a.jsonl": "\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in texts),
        "a.csv": "prompt\n" + "\n".join(f'"{text}"' for text in texts),
    }
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + lines[name].encode())
    assert [prompt.text for prompt in read_prompts(tmp_path / name)] == texts


def test_each_template_formats_prompts() -> None:
    tokenizer, prompt = ByteTokenizer(), EXPECTED[0]
    decoded = {
        name: tokenizer.decode(encode_prompt(tokenizer, prompt, name)) for name in ("alpaca", "plain", "chat")
    }
    assert decoded == {
        "alpaca": "<|bos|>" + alpaca_prompt("Sum up.", "A text."),
        "plain": "<|bos|>Sum up.\n\nA text.",
        "chat": "<|im_start|>user\nSum up.\n\nA text.<|im_end|>\n<|im_start|>assistant\n",
    }


def test_a_chat_keeps_its_turns_and_system_prompt() -> None:
    tokenizer = ByteTokenizer()
    text = tokenizer.decode(encode_prompt(tokenizer, EXPECTED[3], "chat", "Be brief."))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    with_system = Prompt([Message(role="system", content="Be kind."), USER])
    text = tokenizer.decode(encode_prompt(tokenizer, with_system, "chat", "Be brief."))
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")


def test_auto_selects_the_chat_template_if_one_exists() -> None:
    assert pick_template(ByteTokenizer(), "auto", "Be brief.") == "chat"
    assert pick_template(ByteTokenizer(template=None), "auto") == "plain"
    assert pick_template(ByteTokenizer(), "plain") == "plain"


@pytest.mark.parametrize(
    ("template", "name", "system", "message"),
    [
        (None, "chat", None, "the tokenizer has no chat template"),
        (None, "auto", "Be brief.", "for which the tokenizer needs a chat template"),
        ("{{ messages[0]['content'] }}", "chat", None, "the chat template"),
        (None, "alpaca", "Be brief.", "system: the alpaca template does not support a system prompt"),
        (None, "vicuna", None, "template: expected one of auto, chat, alpaca, plain, got 'vicuna'"),
    ],
)
def test_unsupported_templates_are_rejected(
    template: str | None, name: Any, system: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pick_template(ByteTokenizer(template=template), name, system)


def test_the_alpaca_template_rejects_multiple_turns() -> None:
    with pytest.raises(ValueError, match="the alpaca template does not support the 3 turns of a conv"):
        encode_prompt(ByteTokenizer(), EXPECTED[3], "alpaca")
