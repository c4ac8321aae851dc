from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from recipes import alpaca_generate, full_finetune, lora_finetune
from recipes.alpaca_generate import AlpacaGenerateConfig, as_text, encoded_prompt
from tests.data.byte_tokenizer import ByteTokenizer
from tests.recipes.parts import ROWS, TINY, full_config, lora_config
from torchtune.config import Trust, instantiate, lazy, only_trusting
from torchtune.data import alpaca_prompt
from torchtune.models import load_hf_weights, load_peft_adapter
from torchtune.modules import merge_lora

BY_HEART: dict[str, Any] = {
    "epochs": 50,
    "batch_size": 6,
    "optimizer": lazy(AdamW, lr=2e-2, fused=True),
    "lr_scheduler": None,
}


def answering(text: str) -> list[dict[str, str]]:
    return [row | {"output": text} for row in ROWS]


def generate_config(base: Path, **changes: Any) -> AlpacaGenerateConfig:
    fields: dict[str, Any] = {
        "prompt": "What is 2 plus 2?",
        "template": "chat",
        "device": "cpu",
        "model": TINY,
        "model_directory": str(base),
        "tokenizer": lazy(ByteTokenizer),
        "max_new_tokens": 40,
    }
    return AlpacaGenerateConfig(**fields | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with weights that have one answer to everything."""
    folder = tmp_path_factory.mktemp("base")
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        full_finetune.main(full_config(folder, rows=answering("It is so."), **BY_HEART))
    return folder / "full" / "final"


def greedy(base: Path, adapter: Path, ids: list[int], most: int) -> str:
    """Answer without a cache, with the adapter merged into the weights."""
    tokenizer, model = ByteTokenizer(), instantiate(TINY)
    load_hf_weights(model, base)
    load_peft_adapter(model, adapter)
    merge_lora(model)
    answer: list[int] = []
    while len(answer) < most:
        token = int(model(torch.tensor([ids + answer]))[0, -1].argmax())
        if token in tokenizer.stop_ids:
            break
        answer.append(token)
    return tokenizer.decode(answer)


def test_answer_of_the_model_and_of_its_adapter_are_printed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {"model_directory": str(base), "tokenizer_directory": None, "epochs": 5}
    lora_finetune.main(lora_config(tmp_path, rows=answering("Who knows?"), **BY_HEART | here))
    adapter = tmp_path / "lora" / "final"
    capsys.readouterr()
    alpaca_generate.main(generate_config(base))
    assert capsys.readouterr().out == "It is so.\n"
    cfg = generate_config(base, adapter_directory=str(adapter))
    alpaca_generate.main(cfg)
    found = capsys.readouterr().out
    expected = greedy(base, adapter, encoded_prompt(cfg, ByteTokenizer()), cfg.max_new_tokens)
    assert found == expected + "\n"
    assert found != "It is so.\n"


def test_draws_depend_on_the_seed(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for seed in (1, 1, 2):
        alpaca_generate.main(generate_config(base, temperature=5.0, seed=seed))
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[1] != said[2]


def test_prompt_is_written_out_as_in_training(base: Path) -> None:
    tokenizer = ByteTokenizer()
    plain = generate_config(base, template="alpaca", input="numbers")
    expected = tokenizer.encode(alpaca_prompt("What is 2 plus 2?", "numbers"), add_eos=False)
    assert encoded_prompt(plain, tokenizer) == expected
    chat = encoded_prompt(generate_config(base, input="numbers", system="Be brief."), tokenizer)
    assert tokenizer.decode(chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2 plus 2?\n\nnumbers<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_system_has_no_place_in_the_alpaca_template(base: Path) -> None:
    with pytest.raises(ValueError, match="write template=chat"):
        encoded_prompt(generate_config(base, template="alpaca", system="Be brief."), ByteTokenizer())


def test_characters_of_several_tokens_come_out_whole() -> None:
    text = "naïve 😀 end"
    pieces = list(as_text(text.encode(), ByteTokenizer()))
    assert "".join(pieces) == text
    assert "😀" in pieces
    assert list(as_text([*b"ab", 0xF0], ByteTokenizer())) == ["a", "b", "\N{REPLACEMENT CHARACTER}"]
    assert "".join(as_text([], ByteTokenizer())) == ""
