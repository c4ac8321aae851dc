"""llama.cpp's test vocabularies, from llama-cpp-python's sources, are encoded as their expected ids."""

from pathlib import Path

import pytest

from torchtune.formats.gguf._file import read_gguf
from torchtune.tokenizers._gguf import gguf_tokenizer

pytestmark = pytest.mark.slow

SEPARATOR = "\n__ggml_vocab_test__\n"
"""Separates the texts of an .inp file; each line of an .out file has the ids of one text."""


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3"])
def test_ids_match_the_expected_ids_of_llama_cpp(name: str, llama_cpp: Path) -> None:
    path = llama_cpp / f"ggml-vocab-{name}.gguf"
    tokenizer = gguf_tokenizer(read_gguf(path).metadata)
    *texts, remainder = Path(f"{path}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = Path(f"{path}.out").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 40
    assert remainder == ""
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text, add_special_tokens=False).ids == [int(i) for i in line.split()], text
