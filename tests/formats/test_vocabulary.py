"""Special tokens are added to the tokenizer, the embeddings and the output head of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.formats.test_peft_adapter import FAMILIES, write_base
from tests.models.tiny import tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from torchtune.cli import main as tune
from torchtune.formats import convert, hf_decoder, load_hf_weights, save_hf_folder
from torchtune.tokenizers import auto_tokenizer

TOKENS = ["<|user|>", "<|assistant|>"]


def write_smollm2(folder: Path, *, tied: bool = True) -> Path:
    """Write a model with 300 embedding rows and a tokenizer with 300 tokens."""
    files = {
        "tokenizer__json": tiny_tokenizer().to_str(),
        "tokenizer_config__json": json.dumps(tokenizer_config()),
    }
    tokenizer = write(folder.parent / "tokenizer", **files)
    save_hf_folder(tiny_smollm2(tied_embeddings=tied).float(), folder, tokenizer_directory=tokenizer)
    return folder


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_smollm2(tmp_path / "source", tied=request.param)


def test_transformers_loads_the_added_tokens_and_embeddings(tmp_path: Path, source: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert(source, tmp_path / "extended", add_tokens=[*TOKENS, TOKENS[0]])
    before = load_file(source / "model.safetensors")
    after = load_file(tmp_path / "extended/model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        is_table = "embed_tokens" in name or "lm_head" in name
        expected = torch.cat([tensor, tensor.mean(0, keepdim=True).expand(2, -1)]) if is_table else tensor
        torch.testing.assert_close(after[name], expected, rtol=1e-6 if is_table else 0, atol=0)
    assert json.loads((tmp_path / "extended/config.json").read_text())["vocab_size"] == 302
    reference: Any = AutoTokenizer.from_pretrained(tmp_path / "extended")
    tokenizer, source_tokenizer = (auto_tokenizer(str(folder)) for folder in (tmp_path / "extended", source))
    assert [tokenizer.special_tokens[token] for token in TOKENS] == [300, 301]
    ids = [300, *source_tokenizer.encode("Hi there", add_bos=False, add_eos=False), 301]
    assert reference.encode(f"{TOKENS[0]}Hi there{TOKENS[1]}", add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == "Hi there"
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "extended")
    assert model(torch.tensor([ids])).logits.shape[-1] == 302
    load_hf_weights(hf_decoder(str(tmp_path / "extended")), tmp_path / "extended")


@pytest.mark.parametrize("family", FAMILIES)
def test_vocabulary_is_resized_in_every_family(tmp_path: Path, family: str) -> None:
    base = write_base(family, tmp_path / "base")
    convert(base, tmp_path / "extended", vocab_size=320)
    model = hf_decoder(str(tmp_path / "extended"))
    load_hf_weights(model, tmp_path / "extended")
    assert model.head_weight.shape[0] == model.embed_tokens.weight.shape[0] == 320


def test_added_tokens_use_spare_embeddings_first(tmp_path: Path) -> None:
    write_smollm2(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "padded", vocab_size=301)
    convert(tmp_path / "padded", tmp_path / "extended", add_tokens=TOKENS)
    assert hf_decoder(str(tmp_path / "extended")).architecture.vocab_size == 302
    convert(tmp_path / "extended", tmp_path / "same", add_tokens=TOKENS)
    assert (
        load_file(tmp_path / "same/model.safetensors").keys()
        == load_file(tmp_path / "extended/model.safetensors").keys()
    )
    assert hf_decoder(str(tmp_path / "same")).architecture.vocab_size == 302


def test_invalid_additions_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_smollm2(tmp_path / "source")
    with pytest.raises(
        ValueError, match=r"vocab_size \(--vocab-size\) is 301; expected at least 302, since the token"
    ):
        convert(tmp_path / "source", tmp_path / "extended", add_tokens=TOKENS, vocab_size=301)
    with pytest.raises(
        ValueError, match="is 299; expected at least 300, since embeddings cannot be shortened"
    ):
        convert(tmp_path / "source", tmp_path / "extended", vocab_size=299)
    with pytest.raises(ValueError, match="special tokens must not be empty"):
        convert(tmp_path / "source", tmp_path / "extended", add_tokens=[""])
    save_hf_folder(tiny_smollm2(), tmp_path / "no_tokenizer")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer"):
        convert(tmp_path / "no_tokenizer", tmp_path / "extended", add_tokens=TOKENS)
    assert not (tmp_path / "extended").exists()
    args = ["convert", str(tmp_path / "source"), str(tmp_path / "extended"), "--vocab-size", "many"]
    assert tune(args) == 2
    assert "--vocab-size" in capsys.readouterr().err


def test_tokens_are_added_on_the_command_line(tmp_path: Path) -> None:
    write_smollm2(tmp_path / "source")
    args = [arg for token in TOKENS for arg in ("--add-token", token)]
    assert tune(["convert", str(tmp_path / "source"), str(tmp_path / "extended"), *args]) == 0
    assert auto_tokenizer(str(tmp_path / "extended")).special_tokens[TOKENS[1]] == 301
