"""Special tokens are added to a checkpoint: to its tokenizer, its embeddings and its output head."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.formats.test_peft_adapter import FAMILIES, base_of
from tests.models.tiny import tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from torchtune.cli import main as tune
from torchtune.formats import convert, hf_decoder, load_hf_weights, save_hf_folder
from torchtune.tokenizers import auto_tokenizer

TOKENS = ["<|user|>", "<|assistant|>"]


def write_smollm2(folder: Path, *, tied: bool = True) -> Path:
    """Write a model of 300 rows with a tokenizer of 300 tokens."""
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


def test_transformers_finds_the_tokens_and_their_rows(tmp_path: Path, source: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert(source, tmp_path / "more", add_tokens=[*TOKENS, TOKENS[0]])
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "more/model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        is_table = "embed_tokens" in name or "lm_head" in name
        rows = torch.cat([tensor, tensor.mean(0, keepdim=True).expand(2, -1)]) if is_table else tensor
        torch.testing.assert_close(after[name], rows, rtol=1e-6 if is_table else 0, atol=0)
    assert json.loads((tmp_path / "more/config.json").read_text())["vocab_size"] == 302
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "more")
    ours, plain = (auto_tokenizer(str(folder)) for folder in (tmp_path / "more", source))
    assert [ours.special_tokens[token] for token in TOKENS] == [300, 301]
    ids = [300, *plain.encode("Hi there", add_bos=False, add_eos=False), 301]
    assert theirs.encode(f"{TOKENS[0]}Hi there{TOKENS[1]}", add_special_tokens=False) == ids
    assert ours.decode(ids) == "Hi there"
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "more")
    assert model(torch.tensor([ids])).logits.shape[-1] == 302
    load_hf_weights(hf_decoder(str(tmp_path / "more")), tmp_path / "more")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_as_many_rows_as_are_wanted(tmp_path: Path, family: str) -> None:
    base = base_of(family, tmp_path / "base")
    convert(base, tmp_path / "more", vocab_size=320)
    model = hf_decoder(str(tmp_path / "more"))
    load_hf_weights(model, tmp_path / "more")
    assert model.head_weight.shape[0] == model.embed_tokens.weight.shape[0] == 320


def test_tokens_use_rows_that_there_are_before_new_ones(tmp_path: Path) -> None:
    write_smollm2(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "padded", vocab_size=301)
    convert(tmp_path / "padded", tmp_path / "more", add_tokens=TOKENS)
    assert hf_decoder(str(tmp_path / "more")).architecture.vocab_size == 302
    convert(tmp_path / "more", tmp_path / "same", add_tokens=TOKENS)
    assert (
        load_file(tmp_path / "same/model.safetensors").keys()
        == load_file(tmp_path / "more/model.safetensors").keys()
    )
    assert hf_decoder(str(tmp_path / "same")).architecture.vocab_size == 302


def test_what_cannot_be_added_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_smollm2(tmp_path / "source")
    with pytest.raises(
        ValueError, match=r"vocab_size \(--vocab-size\) is 301, and has to be 302 or more, as the token"
    ):
        convert(tmp_path / "source", tmp_path / "more", add_tokens=TOKENS, vocab_size=301)
    with pytest.raises(
        ValueError, match="is 299, and has to be 300 or more, as embeddings are not shortened"
    ):
        convert(tmp_path / "source", tmp_path / "more", vocab_size=299)
    with pytest.raises(ValueError, match="a special token needs a text"):
        convert(tmp_path / "source", tmp_path / "more", add_tokens=[""])
    save_hf_folder(tiny_smollm2(), tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer"):
        convert(tmp_path / "bare", tmp_path / "more", add_tokens=TOKENS)
    assert not (tmp_path / "more").exists()
    assert tune(["convert", str(tmp_path / "source"), str(tmp_path / "more"), "--vocab-size", "many"]) == 2
    assert "--vocab-size" in capsys.readouterr().err


def test_tokens_are_added_on_the_command_line(tmp_path: Path) -> None:
    write_smollm2(tmp_path / "source")
    words = [word for token in TOKENS for word in ("--add-token", token)]
    assert tune(["convert", str(tmp_path / "source"), str(tmp_path / "more"), *words]) == 0
    assert auto_tokenizer(str(tmp_path / "more")).special_tokens[TOKENS[1]] == 301
