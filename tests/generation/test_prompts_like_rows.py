"""A row is the same prompt in a file of prompts as in training, in every kind of file and shape."""

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
from tests.datasets.by_hand import AGENT, BLOCKS, assistant, ids, user
from torchtune.data import IGNORE_INDEX, Example, Pair
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset
from torchtune.generation import encode_prompt, read_prompts

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALL = assistant(None, tool_calls=[{"name": "find", "arguments": '{"city": "Rome"}'}])
RESULT = {"role": "tool", "content": "Sun"}
ASKED = [user(), CALL, RESULT]
SHARED = [
    {"from": "human", "value": "Q"},
    {"from": "function_call", "value": '{"name": "find", "arguments": {"city": "Rome"}}'},
    {"from": "observation", "value": "Sun"},
]
WRITTEN = (
    "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    '<call>find {"city": "Rome"}</call><|im_end|>\n<|im_start|>tool\nSun<|im_end|>\n<|im_start|>assistant\n'
)
TOOLS = f"<|im_start|>system\nTOOLS {json.dumps([TOOL])}<|im_end|>\n"
SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"


def prompt_of(
    row: dict[str, Any], folder: Path, template: str = AGENT, name: str = "rows.jsonl"
) -> list[int]:
    """Encode a row as a prompt out of a file."""
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
        ({"messages": [*ASKED, assistant()], "tools": [TOOL]}, TOOLS + WRITTEN),
        ({"messages": json.dumps([*ASKED, assistant()]), "tools": json.dumps([TOOL])}, TOOLS + WRITTEN),
        ({"messages": [*ASKED, assistant()], "functions": [TOOL["function"]]}, TOOLS + WRITTEN),
        ({"conversations": [*SHARED, {"from": "gpt", "value": "A"}], "system": "Be kind."}, SYSTEM + WRITTEN),
        ({"prompt": ASKED, "completion": "A", "tools": [json.dumps(TOOL)]}, TOOLS + WRITTEN),
        ({"prompt": SHARED, "completion": [assistant()], "system": "Be kind."}, SYSTEM + WRITTEN),
        ({"prompt": json.dumps(ASKED), "completion": json.dumps([assistant()])}, WRITTEN),
        ({"messages": [{"role": "developer", "content": "Be kind."}, *ASKED, assistant()]}, SYSTEM + WRITTEN),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_conversation_with_tools_is_the_same_prompt(
    row: dict[str, Any], expected: str, name: str, tmp_path: Path
) -> None:
    found = prompt_of(row, tmp_path, name=name)
    assert found == ids(expected)
    example = ChatDataset(ByteTokenizer(AGENT), str(tmp_path / name), train_on="last")[0]
    assert isinstance(example, Example)
    assert example.tokens[: len(found)] == found
    assert example.labels[: len(found)] == [IGNORE_INDEX] * len(found)
    assert example.labels[len(found) :] == ids("A<|im_end|>")


@pytest.mark.parametrize("template", [AGENT, BLOCKS], ids=["plain", "with generation blocks"])
def test_earlier_reasoning_is_in_the_prompt_as_in_training(template: str, tmp_path: Path) -> None:
    for field in ("reasoning_content", "reasoning", "thinking"):
        row = {"messages": [user(), assistant("A", **{field: "Hm."}), user("And?"), assistant("B")]}
        found = prompt_of(row, tmp_path, template)
        example = ChatDataset(ByteTokenizer(template), [row])[0]
        assert isinstance(example, Example)
        assert ByteTokenizer().decode(found).count("Hm.") == 1
        assert example.tokens == [*found, *ids("B<|im_end|>")]


def test_a_preference_asks_what_its_row_asks_as_a_prompt(tmp_path: Path) -> None:
    row = {"prompt": ASKED, "chosen": "A", "rejected": "B", "tools": [TOOL]}
    found = prompt_of(row, tmp_path)
    pair = PreferenceDataset(ByteTokenizer(AGENT), [row])[0]
    assert isinstance(pair, Pair)
    assert (pair.chosen.tokens, pair.rejected.tokens) == (
        [*found, *ids("A<|im_end|>")],
        [*found, *ids("B<|im_end|>")],
    )


def test_a_task_asks_what_its_row_asks_as_a_prompt(tmp_path: Path) -> None:
    row: dict[str, Any] = {"instruction": "Q", "input": "I", "output": "A", "history": [["a", "b"]]}
    for more in ({}, {"system": "Be kind."}):
        found = prompt_of({**row, **more}, tmp_path, CHATML)
        example = InstructDataset(ByteTokenizer(), [{**row, **more}])[0]
        assert isinstance(example, Example)
        assert example.tokens == [*found, *ids("A<|im_end|>")]
    (prompt,) = read_prompts(tmp_path / "rows.jsonl")
    plain = InstructDataset(ByteTokenizer(), [{**row, "history": [], "system": None}], template="alpaca")[0]
    del row["history"]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (prompt,) = read_prompts(tmp_path / "rows.jsonl")
    assert isinstance(plain, Example)
    assert plain.tokens == [*encode_prompt(ByteTokenizer(), prompt, "alpaca"), *ids("A<|eos|>")]


def test_what_the_template_leaves_out_of_a_prompt_is_an_error_or_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="the chat template does not write tool calls"):
        prompt_of({"messages": ASKED}, tmp_path, CHATML)
    with caplog.at_level(logging.WARNING):
        found = prompt_of({"messages": [user("<image>", name="Bob")], "tools": [TOOL]}, tmp_path, CHATML)
    assert found == ids("<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n")
    for said in ("tools that the chat template does not write", "'name' of user turns", "'<image>'"):
        assert said in caplog.text


TEXTS = ["\x85one\x0ctwo", "three\u2028four\u2029", "  five\x1c", "six 😀"]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt.gz", "a.ndjson.bz2"])
def test_odd_characters_split_no_prompt(name: str, line_end: str, bom: bytes, tmp_path: Path) -> None:
    lines = {
        ".txt": TEXTS,
        ".csv": ["prompt", *(f'"{text}"' for text in TEXTS)],
        ".tsv": ["prompt\tsystem", *(f'"{text}"\tBe kind.' for text in TEXTS)],
    }.get(f".{name.split('.')[1]}", [json.dumps({"prompt": text}, ensure_ascii=False) for text in TEXTS])
    content = bom + line_end.join(lines).encode() + line_end.encode()
    compress: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress}
    (tmp_path / name).write_bytes(compress.get(Path(name).suffix, bytes)(content))
    prompts = read_prompts(tmp_path / name)
    assert [prompt.text for prompt in prompts] == TEXTS
    first = encode_prompt(ByteTokenizer(), prompts[0], "chat")
    expected = f"<|im_start|>user\n{TEXTS[0]}<|im_end|>\n<|im_start|>assistant\n"
    assert first == ids((SYSTEM if name == "a.tsv" else "") + expected)
