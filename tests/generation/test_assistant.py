"""A model that is asked in words, from whatever folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import SPECIAL, TEMPLATE, tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from torchtune.data import Message, chat_prompt
from torchtune.formats import save_hf_folder, save_peft_adapter
from torchtune.generation import Assistant, How, Prompt, generate, load
from torchtune.modules import add_lora, lora_state, merge_lora
from torchtune.tokenizers import HFTokenizer

QUESTIONS = ["Who are you?", "These words", "Digits 0 and 1, nothing more?"]
DRAWN = How(temperature=3.0, top_k=40, seed=3)
BRIEF = How(temperature=3.0, top_k=40, seed=3, max_new_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model in float64, with its tokenizer and a chat template."""
    return saved(tmp_path_factory.mktemp("models"), TEMPLATE)


def saved(folder: Path, template: str | None) -> Path:
    config = json.dumps({**tokenizer_config(), "chat_template": template})
    words = write(folder / "words", tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config)
    save_hf_folder(tiny_smollm2(tied_embeddings=False), folder / "base", tokenizer_directory=words)
    return folder / "base"


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Assistant:
    return load(folder, device="cpu", dtype=torch.float64, max_new_tokens=12)


def test_an_answer_is_the_text_of_the_generated_tokens(assistant: Assistant) -> None:
    tokenizer = assistant.tokenizer
    tokens = chat_prompt(tokenizer, [Message(role="user", content=QUESTIONS[0])])
    ids = generate(assistant.model, tokens, max_new_tokens=12, stop_ids=tokenizer.stop_ids)
    expected = tokenizer.decode(list(ids))
    assert len(expected) > 5
    before = assistant.n_tokens
    assert assistant.answer(QUESTIONS[0]) == "".join(assistant.stream(QUESTIONS[0])) == expected
    assert (assistant.n_tokens - before) % 2 == 0
    assert 0 < assistant.n_tokens - before <= 24
    assert assistant.seconds > 0


def test_questions_are_asked_in_several_ways(assistant: Assistant) -> None:
    expected = assistant.answer(QUESTIONS[0])
    turns = [Message(role="user", content=QUESTIONS[0])]
    tokens = chat_prompt(assistant.tokenizer, turns)
    assert [assistant.answer(q) for q in (turns, tokens, Prompt(turns))] == [expected] * 3
    longer = [*turns, Message(role="assistant", content="Me."), Message(role="user", content="Who?")]
    assert assistant.encode(longer) == chat_prompt(assistant.tokenizer, longer)


@pytest.mark.parametrize(
    "how", [How(), DRAWN, How(repetition_penalty=1.3)], ids=["greedy", "drawn", "penalised"]
)
def test_batches_change_no_answer(assistant: Assistant, how: How) -> None:
    alone = ["".join(assistant.stream(q, row=row, **how)) for row, q in enumerate(QUESTIONS)]
    for batch_size in (1, 2, 8):
        assert assistant.answers(QUESTIONS, batch_size=batch_size, **how) == alone
    assert assistant.answers(QUESTIONS[1:], first_row=1, **how) == alone[1:]


def test_greedy_answers_take_no_random_numbers(assistant: Assistant) -> None:
    before = torch.get_rng_state()
    assistant.answers(QUESTIONS)
    assistant.answer(QUESTIONS[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_each_call_draws_anew(assistant: Assistant) -> None:
    torch.manual_seed(1)
    said = [assistant.answers(QUESTIONS[:1] * 2, temperature=3.0, batch_size=1) for _ in range(2)]
    assert len({text for texts in said for text in texts}) == 4


def test_a_stop_string_ends_each_answer_of_a_batch(assistant: Assistant) -> None:
    whole = assistant.answers(QUESTIONS)
    stop = [whole[0][3:5], whole[2][1:3]]
    expected = [text[: min(text.find(s) % 999 for s in stop)] for text in whole]
    before = assistant.n_tokens
    assert assistant.answers(QUESTIONS, stop=stop) == expected != whole
    assert assistant.n_tokens - before < 36, "a row that has ended writes no more"
    assert [assistant.answer(q, stop=stop) for q in QUESTIONS] == expected


def test_what_it_was_made_with_holds_until_a_call_says_otherwise(folder: Path) -> None:
    drawing = load(folder, device="cpu", dtype=torch.float64, **BRIEF)
    plain = load(folder, device="cpu", dtype=torch.float64)
    assert drawing.answer("Who?") == plain.answer("Who?", **BRIEF)
    assert drawing.answer("Who?", temperature=0.0, top_k=None) == plain.answer("Who?", max_new_tokens=6)
    assert drawing.answer("Who?", seed=4) != drawing.answer("Who?")


def test_a_model_without_a_chat_template_goes_on_with_the_text(tmp_path: Path) -> None:
    assistant = load(saved(tmp_path, None), device="cpu")
    assert assistant.template == "plain"
    assert assistant.encode("These words") == assistant.tokenizer.encode("These words", add_eos=False)
    with pytest.raises(ValueError, match="the plain template has no place for the 2 turns"):
        assistant.encode([Message(role="user", content="a"), Message(role="user", content="b")])


def test_a_system_begins_every_conversation(folder: Path) -> None:
    assistant = load(folder, device="cpu", system="Be brief.")
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Who?")]
    assert assistant.encode("Who?") == chat_prompt(assistant.tokenizer, turns)


@pytest.mark.parametrize("is_run", [False, True])
def test_an_adapter_is_added_to_its_base(folder: Path, tmp_path: Path, *, is_run: bool) -> None:
    model = tiny_smollm2(tied_embeddings=False)
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    with torch.no_grad():
        for parameter in lora_state(model).values():
            parameter.normal_(std=0.5)
    save_peft_adapter(model, tmp_path / "run/final", base_model=str(folder))
    write(tmp_path / "run", config__yaml="")
    merge_lora(model)
    expected = Assistant(model, HFTokenizer(str(folder)), max_new_tokens=12).answers(QUESTIONS)
    where = tmp_path / "run" if is_run else tmp_path / "run/final"
    how: dict[str, Any] = {"device": "cpu", "dtype": torch.float64, "max_new_tokens": 12}
    assert load(where, **how).answers(QUESTIONS) == expected
    assert load(folder, adapter=where, tokenizer=folder, **how).answers(QUESTIONS) == expected
    assert load(folder, **how).answers(QUESTIONS) != expected


def test_weights_are_in_the_precision_that_was_asked_for(folder: Path) -> None:
    assert {p.dtype for p in load(folder, device="cpu").model.parameters()} == {torch.float32}
    narrow = load(folder, device="cpu", dtype=torch.bfloat16, max_new_tokens=4)
    assert {p.dtype for p in narrow.model.parameters()} == {torch.bfloat16}
    assert narrow.answer("Who?")


def test_mistakes_are_named(folder: Path, assistant: Assistant) -> None:
    with pytest.raises(ValueError, match=r"prompt 2 has .* tokens, which with max_new_tokens = 12 are more"):
        assistant.answers(["Who?", "Who? " * 40])
    with pytest.raises(
        ValueError, match=r"the prompt has .* tokens, which with max_new_tokens = 60 are more"
    ):
        assistant.answer("Who?", max_new_tokens=60)
    with pytest.raises(ValueError, match=r"prompt 3: .* special token"):
        assistant.answers(["Who?", "a", [Message(role=SPECIAL[2], content="a")]])
    with pytest.raises(ValueError, match="top_k: has no effect at temperature 0"):
        assistant.stream("Who?", top_k=4)
    with pytest.raises(ValueError, match="stop: a stop string is empty"):
        assistant.answers(["Who?"], stop=[""])
    with pytest.raises(ValueError, match="batch_size: expected a number above 0, got 0"):
        assistant.answers(["Who?"], batch_size=0)
    with pytest.raises(TypeError, match="there is no 'top_q', only temperature, top_k"):
        assistant.answer("Who?", top_q=0.5)  # type: ignore[call-arg]  # That is the mistake.
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        load(folder.parent, device="cpu")
