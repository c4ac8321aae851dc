"""Assistants are loaded from model, adapter and run folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import (
    SPECIAL,
    TEMPLATE,
    random_tokens,
    tiny_smollm2,
    tiny_tokenizer,
    tokenizer_config,
    write,
)
from torchtune.data import Message, chat_prompt
from torchtune.formats import (
    hf_decoder,
    load_hf_weights,
    load_peft_adapter,
    save_hf_folder,
    save_peft_adapter,
)
from torchtune.generation import AnswerOptions, Assistant, Prompt, generate, load
from torchtune.modules import add_lora, lora_state, merge_lora
from torchtune.tokenizers import HFTokenizer
from torchtune.training import in_compute_dtype

QUESTIONS = ["Who are you?", "These words", "Digits 0 and 1, nothing more?"]
SAMPLED = AnswerOptions(temperature=3.0, top_k=40, seed=3)
SHORT = AnswerOptions(temperature=3.0, top_k=40, seed=3, max_new_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a float64 model with a tokenizer and a chat template."""
    return save_model(tmp_path_factory.mktemp("models"), TEMPLATE)


def save_model(folder: Path, template: str | None) -> Path:
    config = json.dumps({**tokenizer_config(), "chat_template": template})
    tokenizer_folder = write(
        folder / "words", tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config
    )
    save_hf_folder(tiny_smollm2(tied_embeddings=False), folder / "base", tokenizer_directory=tokenizer_folder)
    return folder / "base"


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Assistant:
    return load(folder, device="cpu", dtype=torch.float64, max_new_tokens=12)


def test_an_answer_is_the_decoded_text_of_the_generated_tokens(assistant: Assistant) -> None:
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


def test_questions_may_be_strings_turns_prompts_or_token_ids(assistant: Assistant) -> None:
    expected = assistant.answer(QUESTIONS[0])
    turns = [Message(role="user", content=QUESTIONS[0])]
    tokens = chat_prompt(assistant.tokenizer, turns)
    assert [assistant.answer(q) for q in (turns, tokens, Prompt(turns))] == [expected] * 3
    longer = [*turns, Message(role="assistant", content="Me."), Message(role="user", content="Who?")]
    assert assistant.encode(longer) == chat_prompt(assistant.tokenizer, longer)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "options",
    [AnswerOptions(), SAMPLED, AnswerOptions(repetition_penalty=1.3)],
    ids=["greedy", "sampled", "penalized"],
)
def test_answers_do_not_depend_on_the_batch_size(assistant: Assistant, options: AnswerOptions) -> None:
    separate = ["".join(assistant.stream(q, index=index, **options)) for index, q in enumerate(QUESTIONS)]
    for batch_size in (1, 2, 8):
        assert assistant.answers(QUESTIONS, batch_size=batch_size, **options) == separate
    assert assistant.answers(QUESTIONS[1:], first_index=1, **options) == separate[1:]


def test_greedy_answers_use_no_random_numbers(assistant: Assistant) -> None:
    before = torch.get_rng_state()
    assistant.answers(QUESTIONS)
    assistant.answer(QUESTIONS[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_each_call_draws_different_tokens_if_no_seed_is_set(assistant: Assistant) -> None:
    torch.manual_seed(1)
    answers = [assistant.answers(QUESTIONS[:1] * 2, temperature=3.0, batch_size=1) for _ in range(2)]
    assert len({text for texts in answers for text in texts}) == 4


def test_a_stop_string_ends_each_answer_in_a_batch(assistant: Assistant) -> None:
    full = assistant.answers(QUESTIONS)
    stop = [full[0][3:5], full[2][1:3]]
    expected = [text[: min(text.find(s) % 999 for s in stop)] for text in full]
    before = assistant.n_tokens
    assert assistant.answers(QUESTIONS, stop=stop) == expected != full
    assert assistant.n_tokens - before < 36, "no tokens may be generated for finished rows"
    assert [assistant.answer(q, stop=stop) for q in QUESTIONS] == expected


def test_call_options_override_assistant_options(folder: Path) -> None:
    sampling = load(folder, device="cpu", dtype=torch.float64, **SHORT)
    plain = load(folder, device="cpu", dtype=torch.float64)
    assert sampling.answer("Who?") == plain.answer("Who?", **SHORT)
    assert sampling.answer("Who?", temperature=0.0, top_k=None) == plain.answer("Who?", max_new_tokens=6)
    assert sampling.answer("Who?", seed=4) != sampling.answer("Who?")


def test_a_model_without_a_chat_template_continues_the_text(tmp_path: Path) -> None:
    assistant = load(save_model(tmp_path, None), device="cpu")
    assert assistant.template == "plain"
    assert assistant.encode("These words") == assistant.tokenizer.encode("These words", add_eos=False)
    with pytest.raises(ValueError, match="the plain template does not support the 2 turns"):
        assistant.encode([Message(role="user", content="a"), Message(role="user", content="b")])


def test_a_system_prompt_begins_every_conversation(folder: Path) -> None:
    assistant = load(folder, device="cpu", system="Be brief.")
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Who?")]
    assert assistant.encode("Who?") == chat_prompt(assistant.tokenizer, turns)


@pytest.mark.parametrize("is_run", [False, True])
def test_an_adapter_is_loaded_with_its_base_model(folder: Path, tmp_path: Path, *, is_run: bool) -> None:
    model = tiny_smollm2(tied_embeddings=False)
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    with torch.no_grad():
        for parameter in lora_state(model).values():
            parameter.normal_(std=0.5)
    save_peft_adapter(model, tmp_path / "run/final", base_model=str(folder))
    write(tmp_path / "run", config__yaml="")
    merge_lora(model)
    expected = Assistant(model, HFTokenizer(str(folder)), max_new_tokens=12).answers(QUESTIONS)
    adapter_folder = tmp_path / "run" if is_run else tmp_path / "run/final"
    options: dict[str, Any] = {"device": "cpu", "dtype": torch.float64, "max_new_tokens": 12}
    assert load(adapter_folder, **options).answers(QUESTIONS) == expected
    assert load(folder, adapter=adapter_folder, tokenizer=folder, **options).answers(QUESTIONS) == expected
    assert load(folder, **options).answers(QUESTIONS) != expected


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_are_computed_in_the_requested_dtype_as_in_training(
    folder: Path, tmp_path: Path, kind: Any
) -> None:
    model = tiny_smollm2(tied_embeddings=False)
    add_lora(model, "all-linear", rank=2, alpha=4.0, kind=kind)
    with torch.no_grad():
        for parameter in lora_state(model).values():
            parameter.normal_(std=0.5)
    save_peft_adapter(model, tmp_path / "adapter", base_model=str(folder))
    loaded = load(folder, adapter=tmp_path / "adapter", device="cpu", dtype=torch.bfloat16).model
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    trained = hf_decoder(str(folder)).bfloat16()
    load_hf_weights(trained, folder)
    load_peft_adapter(trained, tmp_path / "adapter")  # float32 adapters, which a training step casts
    trained.compute_dtype = torch.bfloat16
    tokens = random_tokens(2, 9)
    assert torch.equal(loaded(tokens), in_compute_dtype(trained, lambda: trained(tokens)))
    assert not torch.equal(loaded(tokens), trained(tokens))


def test_weights_have_the_requested_dtype(folder: Path) -> None:
    assert {p.dtype for p in load(folder, device="cpu").model.parameters()} == {torch.float32}
    half_precision = load(folder, device="cpu", dtype=torch.bfloat16, max_new_tokens=4)
    assert {p.dtype for p in half_precision.model.parameters()} == {torch.bfloat16}
    assert half_precision.answer("Who?")


def test_errors_contain_the_option_or_the_prompt_index(folder: Path, assistant: Assistant) -> None:
    with pytest.raises(
        ValueError, match=r"prompt 2 has .* tokens; together with max_new_tokens = 12, this exceeds"
    ):
        assistant.answers(["Who?", "Who? " * 40])
    with pytest.raises(
        ValueError, match=r"the prompt has .* tokens; together with max_new_tokens = 60, this exceeds"
    ):
        assistant.answer("Who?", max_new_tokens=60)
    with pytest.raises(ValueError, match=r"prompt 3: .* special token"):
        assistant.answers(["Who?", "a", [Message(role=SPECIAL[2], content="a")]])
    with pytest.raises(ValueError, match="top_k has no effect at temperature 0"):
        assistant.stream("Who?", top_k=4)
    with pytest.raises(ValueError, match="stop: a stop string is empty"):
        assistant.answers(["Who?"], stop=[""])
    with pytest.raises(ValueError, match="batch_size: expected a number above 0, got 0"):
        assistant.answers(["Who?"], batch_size=0)
    with pytest.raises(TypeError, match="unknown option 'top_q'; expected temperature, top_k"):
        assistant.answer("Who?", top_q=0.5)  # type: ignore[call-arg]  # misspelled on purpose
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        load(folder.parent, device="cpu")
