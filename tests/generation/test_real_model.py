"""SmolLM2-135M-Instruct produces the same answers as in transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from torchtune.generation import Assistant, load

pytestmark = pytest.mark.slow

QUESTIONS = [
    "Who are you?",
    "Write a short story about a lighthouse keeper and her cat.",
    "What is the capital of France? Answer in one word.",
    "Translate to German, then to French: 'The naïve café owner paid 12,50 € — twice!' 😀",
]
MAX_NEW_TOKENS = 60


@pytest.fixture(scope="module")
def assistant(smollm2_folder: Path) -> Assistant:
    return load(smollm2_folder, device="cpu", max_new_tokens=MAX_NEW_TOKENS)


@pytest.fixture(scope="module")
def reference(smollm2_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)


def reference_answers(
    reference: Any, assistant: Assistant, questions: list[str], **options: Any
) -> list[str]:
    """Return transformers' answers to a left-padded batch."""
    prompts = [assistant.encode(question) for question in questions]
    width = max(map(len, prompts))
    tokens = torch.tensor([[2] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "do_sample": False,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **options,
    }
    answers = reference.generate(tokens, attention_mask=mask, **options)[:, width:].tolist()
    return [assistant.tokenizer.decode(answer) for answer in answers]


def test_batch_answers_match_transformers(reference: Any, assistant: Assistant) -> None:
    expected = reference_answers(reference, assistant, QUESTIONS)
    assert assistant.answers(QUESTIONS) == expected
    assert any(len(assistant.tokenizer.encode(text)) < MAX_NEW_TOKENS for text in expected), (
        "at least one answer must end before the limit"
    )
    for question, answer in zip(QUESTIONS, expected, strict=True):
        assert "".join(assistant.stream(question)) == answer


def test_repetition_penalty_matches_transformers(reference: Any, assistant: Assistant) -> None:
    expected = [
        reference_answers(reference, assistant, [q], repetition_penalty=1.2)[0] for q in QUESTIONS[:2]
    ]
    assert assistant.answers(QUESTIONS[:2], repetition_penalty=1.2) == expected
    assert expected != assistant.answers(QUESTIONS[:2])


def test_a_stop_string_ends_a_real_answer(assistant: Assistant) -> None:
    (full,) = assistant.answers(QUESTIONS[1:2])
    stop = full[30:47]
    assert assistant.answer(QUESTIONS[1], stop=[stop]) == full[: full.index(stop)]
