"""A row produces the same prompt in generation as in training, in every file format and row format."""

import bz2
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from tests.datasets.expected_examples import AGENT, BLOCKS, assistant, ids, user
from torchtune.data import IGNORE_INDEX, Example, Pair
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset
from torchtune.generation import encode_prompt, read_prompts

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALL = assistant(None, tool_calls=[{"name": "find", "arguments": '{"city": "Rome"}'}])
RESULT = {"role": "tool", "content": "Sun"}
TURNS = [user(), CALL, RESULT]
SHAREGPT_TURNS = [
    {"from": "human", "value": "Q"},
    {"from": "function_call", "value": '{"name": "find", "arguments": {"city": "Rome"}}'},
    {"from": "observation", "value": "Sun"},
]
RENDERED = (
    "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    '<call>find {"city": "Rome"}</call><|im_end|>\n<|im_start|>tool\nSun<|im_end|>\n<|im_start|>assistant\n'
)
TOOLS = f"<|im_start|>system\nTOOLS {json.dumps([TOOL])}<|im_end|>\n"
SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"


def encode_row(
    row: dict[str, Any], folder: Path, template: str = AGENT, name: str = "rows.jsonl"
) -> list[int]:
    """Write a row to a file, read it as a prompt and tokenize it."""
    path = folder / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row))
    (prompt,) = read_prompts(path)
    return encode_prompt(ByteTokenizer(template), prompt, "chat")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [*TURNS, assistant()], "tools": [TOOL]}, TOOLS + RENDERED),
        ({"messages": json.dumps([*TURNS, assistant()]), "tools": json.dumps([TOOL])}, TOOLS + RENDERED),
        ({"messages": [*TURNS, assistant()], "functions": [TOOL["function"]]}, TOOLS + RENDERED),
        (
            {"conversations": [*SHAREGPT_TURNS, {"from": "gpt", "value": "A"}], "system": "Be kind."},
            SYSTEM + RENDERED,
        ),
        ({"prompt": TURNS, "completion": "A", "tools": [json.dumps(TOOL)]}, TOOLS + RENDERED),
        ({"prompt": SHAREGPT_TURNS, "completion": [assistant()], "system": "Be kind."}, SYSTEM + RENDERED),
        ({"prompt": json.dumps(TURNS), "completion": json.dumps([assistant()])}, RENDERED),
        (
            {"messages": [{"role": "developer", "content": "Be kind."}, *TURNS, assistant()]},
            SYSTEM + RENDERED,
        ),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_conversation_with_tools_produces_the_same_prompt(
    row: dict[str, Any], expected: str, name: str, tmp_path: Path
) -> None:
    tokens = encode_row(row, tmp_path, name=name)
    assert tokens == ids(expected)
    example = ChatDataset(ByteTokenizer(AGENT), str(tmp_path / name), train_on="last")[0]
    assert isinstance(example, Example)
    assert example.tokens[: len(tokens)] == tokens
    assert example.labels[: len(tokens)] == [IGNORE_INDEX] * len(tokens)
    assert example.labels[len(tokens) :] == ids("A<|im_end|>")


@pytest.mark.parametrize("template", [AGENT, BLOCKS], ids=["plain", "with generation blocks"])
def test_earlier_reasoning_is_in_the_prompt_as_in_training(template: str, tmp_path: Path) -> None:
    for field in ("reasoning_content", "reasoning", "thinking"):
        row = {"messages": [user(), assistant("A", **{field: "Hm."}), user("And?"), assistant("B")]}
        tokens = encode_row(row, tmp_path, template)
        example = ChatDataset(ByteTokenizer(template), [row])[0]
        assert isinstance(example, Example)
        assert ByteTokenizer().decode(tokens).count("Hm.") == 1
        assert example.tokens == [*tokens, *ids("B<|im_end|>")]


def test_a_preference_row_has_the_same_prompt_as_its_pair(tmp_path: Path) -> None:
    row = {"prompt": TURNS, "chosen": "A", "rejected": "B", "tools": [TOOL]}
    tokens = encode_row(row, tmp_path)
    pair = PreferenceDataset(ByteTokenizer(AGENT), [row])[0]
    assert isinstance(pair, Pair)
    assert (pair.chosen.tokens, pair.rejected.tokens) == (
        [*tokens, *ids("A<|im_end|>")],
        [*tokens, *ids("B<|im_end|>")],
    )


def test_a_task_row_has_the_same_prompt_as_its_example(tmp_path: Path) -> None:
    row: dict[str, Any] = {"instruction": "Q", "input": "I", "output": "A", "history": [["a", "b"]]}
    for extra in ({}, {"system": "Be kind."}):
        tokens = encode_row({**row, **extra}, tmp_path, CHATML)
        example = InstructDataset(ByteTokenizer(), [{**row, **extra}])[0]
        assert isinstance(example, Example)
        assert example.tokens == [*tokens, *ids("A<|im_end|>")]
    (prompt,) = read_prompts(tmp_path / "rows.jsonl")
    plain = InstructDataset(ByteTokenizer(), [{**row, "history": [], "system": None}], template="alpaca")[0]
    del row["history"]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (prompt,) = read_prompts(tmp_path / "rows.jsonl")
    assert isinstance(plain, Example)
    assert plain.tokens == [*encode_prompt(ByteTokenizer(), prompt, "alpaca"), *ids("A<|eos|>")]


def test_content_that_the_template_omits_raises_or_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="the chat template does not render tool calls"):
        encode_row({"messages": TURNS}, tmp_path, CHATML)
    with caplog.at_level(logging.WARNING):
        tokens = encode_row({"messages": [user("<image>", name="Bob")], "tools": [TOOL]}, tmp_path, CHATML)
    assert tokens == ids("<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n")
    for message in ("tools that the chat template does not render", "'name' in user turns", "'<image>'"):
        assert message in caplog.text


TEXTS = ["\x85one\x0ctwo", "three\u2028four\u2029", "  five\x1c", "six 😀"]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt.gz", "a.ndjson.bz2"])
def test_unusual_line_separators_do_not_split_prompts(
    name: str, line_ending: str, bom: bytes, tmp_path: Path
) -> None:
    lines = {
        ".txt": TEXTS,
        ".csv": ["prompt", *(f'"{text}"' for text in TEXTS)],
        ".tsv": ["prompt\tsystem", *(f'"{text}"\tBe kind.' for text in TEXTS)],
    }.get(f".{name.split('.')[1]}", [json.dumps({"prompt": text}, ensure_ascii=False) for text in TEXTS])
    content = bom + line_ending.join(lines).encode() + line_ending.encode()
    compress: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress}
    (tmp_path / name).write_bytes(compress.get(Path(name).suffix, bytes)(content))
    prompts = read_prompts(tmp_path / name)
    assert [prompt.text for prompt in prompts] == TEXTS
    first = encode_prompt(ByteTokenizer(), prompts[0], "chat")
    expected = f"<|im_start|>user\n{TEXTS[0]}<|im_end|>\n<|im_start|>assistant\n"
    assert first == ids((SYSTEM if name == "a.tsv" else "") + expected)
