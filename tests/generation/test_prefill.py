"""Prefilled answers match transformers token for token, and the prefill is part of the answer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.byte_tokenizer import ByteTokenizer
from tests.models.tiny import TEMPLATE, tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from tests.tokenizers.kinds import write_sentencepiece
from torchtune.data import Message, Tokenizer, alpaca_prompt, chat_prompt, plain_example
from torchtune.generation import Assistant, Prompt, Template, encode_prompt, load, read_prompts
from torchtune.modules import Decoder
from torchtune.tokenizers import auto_tokenizer

USER = Message(role="user", content="Who are you?")
TEMPLATES = {
    "ChatML": TEMPLATE,
    "trimmed content": TEMPLATE.replace("message['content'] +", "message['content'] | trim +"),
    "Llama 2": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]"
        "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "reasoning": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set c = m.content %}"
        "{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ c }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "generation blocks": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
PREFILLS = [
    "These",
    "I am ",
    " words",
    "I am\n",
    "  9  ",
    "```python\n",
    "no words</think>\n\nThe",
    "é\u00a0",
    "0 1 2.",
]


def write_tokenizer(path: Path, template: str | None) -> Path:
    config = json.dumps({**tokenizer_config(), "chat_template": template})
    return write(path, tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config)


def reference_tokens(folder: Path, messages: list[Any], **options: Any) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    encoded: list[int] = tokenizer.apply_chat_template(
        messages, continue_final_message=True, return_dict=True, **options
    )["input_ids"]
    return encoded


def continued_tokens(folder: Path, messages: list[Any]) -> list[int]:
    return chat_prompt(auto_tokenizer(str(folder)), messages, continue_final_message=True)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_tokens_match_transformers(tmp_path: Path, template: str) -> None:
    folder = write_tokenizer(tmp_path, template)
    tokenizer = auto_tokenizer(str(folder))
    longer = [USER, Message(role="assistant", content="Me."), Message(role="user", content="Who?")]
    for prefill in PREFILLS:
        answer = Message(role="assistant", content=prefill)
        for turns in ([USER], longer):
            if "</think>" in prefill and "</think>" in template:
                for call in (reference_tokens, continued_tokens):
                    with pytest.raises(
                        ValueError, match=r"final message does not appear|last message unchanged"
                    ):
                        call(folder, [*turns, answer])
                continue
            expected = reference_tokens(folder, [*turns, answer])
            assert chat_prompt(tokenizer, [*turns, answer], continue_final_message=True) == expected
            assert encode_prompt(tokenizer, Prompt(turns, answer=answer), "chat") == expected
    thought = Message(role="assistant", content="These", reasoning_content="Hm.")
    if "reasoning_content" in template:
        expected = reference_tokens(folder, [USER, thought])
        assert encode_prompt(tokenizer, Prompt([USER], answer=thought), "chat") == expected
        assert "Hm." in tokenizer.decode(expected)


def test_a_message_that_the_template_changes_cannot_be_continued(tmp_path: Path) -> None:
    without_answers = ByteTokenizer(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}<|im_end|>"
    )
    answer = Message(role="assistant", content="These")
    with pytest.raises(
        ValueError, match="does not render the last message unchanged, so it cannot be contin"
    ):
        chat_prompt(without_answers, [USER, answer], continue_final_message=True)
    upper_case = ByteTokenizer(TEMPLATE.replace("message['content'] +", "message['content'] | upper +"))
    with pytest.raises(ValueError, match="does not render the last message unchanged"):
        chat_prompt(upper_case, [USER, answer], continue_final_message=True)
    empty = Message(role="assistant", content=" ")
    with pytest.raises(ValueError, match="the last message has no content to continue"):
        chat_prompt(ByteTokenizer(), [USER, empty], continue_final_message=True)


@pytest.mark.parametrize("prefill", ["Four", " is 4", "4\n"])
def test_tokens_match_training_without_a_chat_template(prefill: str) -> None:
    tokenizer = ByteTokenizer(None)
    prompt = Prompt.from_text("Sum up.", "2 2", prefill)
    text = alpaca_prompt("Sum up.", "2 2")
    tokens = encode_prompt(tokenizer, prompt, "alpaca")
    example = plain_example(tokenizer, text, prefill + " and so on", train_on_input=False)
    assert example.tokens[: len(tokens)] == tokens
    assert tokenizer.decode(tokens) == f"<|bos|>{text}{prefill}"
    plain = encode_prompt(tokenizer, Prompt.from_text("Sum up.", prefill=prefill), "plain")
    assert tokenizer.decode(plain) == f"<|bos|>Sum up.{prefill}"


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    from tests.generation.test_assistant import save_model

    folder = save_model(tmp_path_factory.mktemp("model"), TEMPLATE)
    return load(folder, device="cpu", dtype=torch.float64, max_new_tokens=9)


@pytest.mark.parametrize("prefill", ["These", "These words ", "0"])
def test_the_prefill_is_part_of_the_answer(assistant: Assistant, prefill: str) -> None:
    question = str(USER["content"])
    tokens = chat_prompt(
        assistant.tokenizer,
        [USER, Message(role="assistant", content=prefill)],
        continue_final_message=True,
    )
    expected = prefill + assistant.answer(tokens)
    assert assistant.answer(question, prefill=prefill) == expected
    assert assistant.answer(Prompt.from_text(question, prefill=prefill), prefill="not this") == expected
    assert assistant.encode(question, prefill=prefill) == tokens
    pieces = list(assistant.stream(question, prefill=prefill))
    assert (pieces[0], "".join(pieces)) == (prefill, expected)
    batch = assistant.answers([question, Prompt.from_text(question), question], prefill=prefill, batch_size=2)
    assert batch == [expected] * 3
    assert assistant.answer(question) != expected


def test_a_prefill_is_rejected_with_token_ids(assistant: Assistant) -> None:
    with pytest.raises(
        ValueError, match="prefill has no effect on a prompt given as token ids; append the prefill's tokens"
    ):
        assistant.answer([1, 5, 7], prefill="These")


class ScriptedAssistant(Assistant):
    """An assistant that generates predefined tokens."""

    def _steps(self, prompts: Any, *_: Any) -> Any:
        for token in self.tokens:
            yield [(row, token) for row in range(len(prompts))]

    tokens: tuple[int, ...] = ()


def build_scripted_assistant(tokenizer: Tokenizer, template: Template = "auto") -> ScriptedAssistant:
    with torch.device("meta"):
        model = Decoder(tiny_smollm2().architecture.evolve(vocab_size=tokenizer.vocab_size))
    return ScriptedAssistant(model, tokenizer, template=template, max_new_tokens=9)


def test_the_space_between_prefill_and_continuation_is_kept(tmp_path: Path) -> None:
    tokenizer = auto_tokenizer(str(write_sentencepiece(tmp_path)))
    scripted = build_scripted_assistant(tokenizer, "plain")
    text = "The tiny words"
    ids = tokenizer.encode(text, add_bos=False, add_eos=False)
    start = tokenizer.encode("The", add_bos=False, add_eos=False)
    assert ids[: len(start)] == start
    scripted.tokens = tuple(ids[len(start) :])
    assert scripted.answer("a", prefill="The") == text
    assert scripted.answers(["a", "b"], prefill="The") == [text] * 2


def test_a_space_that_the_template_strips_is_not_repeated(tmp_path: Path) -> None:
    tokenizer = auto_tokenizer(str(write_tokenizer(tmp_path, TEMPLATES["trimmed content"])))
    scripted = build_scripted_assistant(tokenizer)
    scripted.tokens = tuple(tokenizer.encode(" words", add_bos=False, add_eos=False))
    assert scripted.answer("Who?", prefill="These ") == "These words"


def test_prefills_are_read_from_rows(tmp_path: Path) -> None:
    turns = [dict(USER), {"role": "assistant", "content": "These"}]
    rows: list[dict[str, Any]] = [
        {"messages": turns},
        {"prompt": "a", "prefill": "b"},
        {"instruction": "a", "input": "c", "prefill": "d"},
        {"messages": turns[:1], "prefill": "e"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "f"}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [prompt.prefill for prompt in read_prompts(path)] == ["", "b", "d", "e", ""]
    continued = read_prompts(path, continue_final_message=True)
    assert [prompt.prefill for prompt in continued] == ["These", "b", "d", "e", "f"]
    assert all(prompt.turns[-1]["role"] == "user" for prompt in continued)
    path.write_text(json.dumps({"messages": turns, "prefill": "e"}))
    assert [prompt.prefill for prompt in read_prompts(path)] == ["e"]
    with pytest.raises(
        ValueError, match="line 1: both `prefill` and the conversation's last message begin the answer"
    ):
        read_prompts(path, continue_final_message=True)
    path.write_text(json.dumps({"prompt": "a", "prefill": 5}))
    with pytest.raises(ValueError, match="line 1: prefill: expected non-empty text, got 5"):
        read_prompts(path)
