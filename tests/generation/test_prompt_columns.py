"""A prompt that has an input also includes the system and tools columns."""

import json
from pathlib import Path

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import AGENT, ids
from torchtune.generation import encode_prompt, read_prompts


def test_a_prompt_with_an_input_includes_the_system_and_tools_columns(tmp_path: Path) -> None:
    row = {"prompt": "Q", "input": "I", "system": "Be kind.", "tools": [{"name": "f"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (prompt,) = read_prompts(tmp_path / "rows.jsonl")
    assert encode_prompt(ByteTokenizer(AGENT), prompt, "chat") == ids(
        '<|im_start|>system\nTOOLS [{"name": "f"}]<|im_end|>\n<|im_start|>system\nBe kind.<|im_end|>\n'
        "<|im_start|>user\nQ\n\nI<|im_end|>\n<|im_start|>assistant\n"
    )
