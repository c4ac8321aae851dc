"""SmolLM2-135M-Instruct, converted from its GGUF file, compared with transformers."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.formats.float64 import float64_transformers
from tests.tokenizers import texts
from tests.tokenizers.texts import PARAGRAPH
from tests.tolerance import FLOAT64, assert_near, bound, roundings
from torchtune.formats import load_hf_weights
from torchtune.generation import generate
from torchtune.models.smollm2 import smollm2_135m, smollm2_tokenizer
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.tokenizers import BaseTokenizer

pytestmark = pytest.mark.slow

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea, there lived",
]

TEXTS = [*(text for text in texts.TEXTS if not any(c.isnumeric() for c in text)), *texts.SPECIAL_TEXTS]
"""Texts without digits, as transformers does not split digits with tokenizers of GGUF files."""


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(smollm2_folder: Path) -> Decoder:
    with torch.device("meta"):
        model = smollm2_135m()
    load_hf_weights(model, smollm2_folder)
    return model.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder: Path) -> BaseTokenizer:
    return smollm2_tokenizer(str(smollm2_folder))


@pytest.fixture(scope="module")
def reference(smollm2_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)


def test_weights_match_transformers_rounded_to_bfloat16(smollm2_gguf: Path, smollm2_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    actual = load_file(smollm2_folder / "model.safetensors")
    from_file = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    )
    expected = {name: weight.bfloat16() for name, weight in from_file.state_dict().items()}
    del expected["lm_head.weight"]
    assert len(actual) == 272
    assert sum(weight.numel() for weight in actual.values()) == 134_515_008
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_logits_match_transformers(
    model: Decoder, tokenizer: BaseTokenizer, reference: Any, smollm2_folder: Path
) -> None:
    from transformers import AutoModelForCausalLM

    tokens = torch.tensor([tokenizer.encode(PARAGRAPH)])
    with torch.inference_mode():
        with float64_transformers():
            expected = AutoModelForCausalLM.from_pretrained(smollm2_folder).double()(tokens).logits
        assert_near(copy.deepcopy(model).double()(tokens), expected, FLOAT64)
        rounded = bound(torch.float32, roundings(model.architecture, tokens.shape[1]))
        assert_near(model(tokens), expected, rounded)
        assert_near(model(tokens), reference(tokens).logits, rounded)


def test_first_greedy_tokens_match_transformers(
    model: Decoder, tokenizer: BaseTokenizer, reference: Any
) -> None:
    for prompt in PROMPTS:
        tokens = tokenizer.encode(prompt, add_eos=False)
        batch = torch.tensor([tokens])
        answer = reference.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=None,
        )
        assert list(generate(model, tokens, max_new_tokens=20)) == answer[0, len(tokens) :].tolist()


def test_perplexity_matches_transformers(model: Decoder, tokenizer: BaseTokenizer, reference: Any) -> None:
    tokens = torch.tensor([tokenizer.encode(PARAGRAPH, add_eos=False)])
    with torch.inference_mode():
        hidden = model.hidden(tokens)[0, :-1]
        actual = math.exp(LinearCrossEntropy("mean")(hidden, model.head_weight, tokens[0, 1:]))
        expected = math.exp(reference(tokens, labels=tokens).loss)
    assert actual == pytest.approx(
        expected, rel=bound(torch.float32, roundings(model.architecture, tokens.numel()))
    )
    assert 2 < actual < 20, "the perplexity must be plausible for plain English"


def test_tokens_match_transformers_reading_the_same_gguf_file(
    smollm2_gguf: Path, tokenizer: BaseTokenizer
) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    for text in TEXTS:
        assert tokenizer.encode_template(text) == reference(text)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_split_individually(tokenizer: BaseTokenizer) -> None:
    ids = [tokenizer.encode(text, add_eos=False) for text in ("In", " ", "1", "9", "8", "4")]
    assert all(len(piece) == 1 for piece in ids)
    assert tokenizer.encode("In 1984", add_eos=False) == [i for piece in ids for i in piece]


def test_transformers_loads_the_same_tokenizer_from_the_folder(
    smollm2_folder: Path, tokenizer: BaseTokenizer
) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(smollm2_folder)
    for text in [*texts.TEXTS, *texts.SPECIAL_TEXTS]:
        assert tokenizer.encode_template(text) == reference(text)["input_ids"]
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    rendered = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.chat_template is not None
    assert (
        tokenizer.chat_template.render(
            [{"role": "user", "content": "What is 2 + 2?"}], add_generation_prompt=True
        ).text
        == rendered
    )


def test_paris_is_the_capital_of_france(
    model: Decoder, tokenizer: BaseTokenizer, reference: Any, smollm2_folder: Path
) -> None:
    assert tokenizer.chat_template is not None
    question = tokenizer.chat_template.render(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    tokens = tokenizer.encode_template(question.text)
    answer = list(generate(model, tokens, max_new_tokens=30, stop_ids=tokenizer.stop_ids))
    assert tokenizer.decode(answer) == "The capital of France is Paris."
    batch = torch.tensor([tokens])
    # Generation stops at the EOS id of generation_config.json.
    sequence = reference.generate(
        batch, attention_mask=torch.ones_like(batch), max_new_tokens=30, do_sample=False
    )
    assert sequence[0, len(tokens) :].tolist() == [*answer, tokenizer.eos_id]
    assert json.loads((smollm2_folder / "generation_config.json").read_text())["eos_token_id"] == 2
