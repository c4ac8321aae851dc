"""Answers that begin with a text: their tokens are transformers', and the text is part of the answer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.byte_tokenizer import ByteTokenizer
from tests.models.tiny import TEMPLATE, tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from tests.tokenizers.kinds import write_pieces
from torchtune.data import Message, Tokenizer, alpaca_prompt, chat_prompt, plain_example
from torchtune.generation import Assistant, Prompt, Template, encode_prompt, load, read_prompts
from torchtune.modules import Decoder
from torchtune.tokenizers import auto_tokenizer

USER = Message(role="user", content="Who are you?")
TEMPLATES = {
    "ChatML": TEMPLATE,
    "trims": TEMPLATE.replace("message['content'] +", "message['content'] | trim +"),
    "Llama 2": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]"
        "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "thinks": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set c = m.content %}"
        "{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ c }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "marks answers": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
BEGINNINGS = [
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


def folder_of(path: Path, template: str | None) -> Path:
    config = json.dumps({**tokenizer_config(), "chat_template": template})
    return write(path, tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config)


def theirs_of(folder: Path, messages: list[Any], **more: Any) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    encoded: list[int] = tokenizer.apply_chat_template(
        messages, continue_final_message=True, return_dict=True, **more
    )["input_ids"]
    return encoded


def chat_continued(folder: Path, messages: list[Any]) -> list[int]:
    return chat_prompt(auto_tokenizer(str(folder)), messages, continue_final_message=True)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_tokens_are_those_of_transformers(tmp_path: Path, template: str) -> None:
    folder = folder_of(tmp_path, template)
    tokenizer = auto_tokenizer(str(folder))
    longer = [USER, Message(role="assistant", content="Me."), Message(role="user", content="Who?")]
    for beginning in BEGINNINGS:
        answer = Message(role="assistant", content=beginning)
        for turns in ([USER], longer):
            if "</think>" in beginning and "</think>" in template:
                for call in (theirs_of, chat_continued):
                    with pytest.raises(
                        ValueError, match=r"final message does not appear|last message as it is"
                    ):
                        call(folder, [*turns, answer])
                continue
            expected = theirs_of(folder, [*turns, answer])
            assert chat_prompt(tokenizer, [*turns, answer], continue_final_message=True) == expected
            assert encode_prompt(tokenizer, Prompt(turns, answer=answer), "chat") == expected
    thought = Message(role="assistant", content="These", reasoning_content="Hm.")
    if "reasoning_content" in template:
        expected = theirs_of(folder, [USER, thought])
        assert encode_prompt(tokenizer, Prompt([USER], answer=thought), "chat") == expected
        assert "Hm." in tokenizer.decode(expected)


def test_a_message_that_cannot_be_continued_is_named(tmp_path: Path) -> None:
    silent = ByteTokenizer("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}<|im_end|>")
    answer = Message(role="assistant", content="These")
    with pytest.raises(
        ValueError, match="does not write the last message as it is, so that it cannot be contin"
    ):
        chat_prompt(silent, [USER, answer], continue_final_message=True)
    loud = ByteTokenizer(TEMPLATE.replace("message['content'] +", "message['content'] | upper +"))
    with pytest.raises(ValueError, match="does not write the last message as it is"):
        chat_prompt(loud, [USER, answer], continue_final_message=True)
    empty = Message(role="assistant", content=" ")
    with pytest.raises(ValueError, match="the last message has no content to continue"):
        chat_prompt(ByteTokenizer(), [USER, empty], continue_final_message=True)


@pytest.mark.parametrize("beginning", ["Four", " is 4", "4\n"])
def test_without_a_chat_template_tokens_are_those_of_training(beginning: str) -> None:
    tokenizer = ByteTokenizer(None)
    prompt = Prompt.of_text("Sum up.", "2 2", beginning)
    text = alpaca_prompt("Sum up.", "2 2")
    tokens = encode_prompt(tokenizer, prompt, "alpaca")
    example = plain_example(tokenizer, text, beginning + " and so on", train_on_input=False)
    assert example.tokens[: len(tokens)] == tokens
    assert tokenizer.decode(tokens) == f"<|bos|>{text}{beginning}"
    plain = encode_prompt(tokenizer, Prompt.of_text("Sum up.", prefill=beginning), "plain")
    assert tokenizer.decode(plain) == f"<|bos|>Sum up.{beginning}"


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    from tests.generation.test_assistant import saved

    folder = saved(tmp_path_factory.mktemp("model"), TEMPLATE)
    return load(folder, device="cpu", dtype=torch.float64, max_new_tokens=9)


@pytest.mark.parametrize("beginning", ["These", "These words ", "0"])
def test_the_beginning_is_part_of_the_answer(assistant: Assistant, beginning: str) -> None:
    question = str(USER["content"])
    tokens = chat_prompt(
        assistant.tokenizer,
        [USER, Message(role="assistant", content=beginning)],
        continue_final_message=True,
    )
    expected = beginning + assistant.answer(tokens)
    assert assistant.answer(question, prefill=beginning) == expected
    assert assistant.answer(Prompt.of_text(question, prefill=beginning), prefill="not this") == expected
    assert assistant.encode(question, prefill=beginning) == tokens
    pieces = list(assistant.stream(question, prefill=beginning))
    assert (pieces[0], "".join(pieces)) == (beginning, expected)
    batch = assistant.answers([question, Prompt.of_text(question), question], prefill=beginning, batch_size=2)
    assert batch == [expected] * 3
    assert assistant.answer(question) != expected


def test_token_ids_have_no_beginning_of_their_answer(assistant: Assistant) -> None:
    with pytest.raises(ValueError, match="prefill: has no effect on a prompt's token ids; add its tokens"):
        assistant.answer([1, 5, 7], prefill="These")


class Copying(Assistant):
    """Writes given tokens."""

    def _steps(self, prompts: Any, *_: Any) -> Any:
        for token in self.written:
            yield [(row, token) for row in range(len(prompts))]

    written: tuple[int, ...] = ()


def copying(tokenizer: Tokenizer, template: Template = "auto") -> Copying:
    with torch.device("meta"):
        model = Decoder(tiny_smollm2().architecture.vary(vocab_size=tokenizer.vocab_size))
    return Copying(model, tokenizer, template=template, max_new_tokens=9)


def test_the_space_between_beginning_and_continuation_stays(tmp_path: Path) -> None:
    tokenizer = auto_tokenizer(str(write_pieces(tmp_path)))
    writer = copying(tokenizer, "plain")
    text = "The tiny words"
    both = tokenizer.encode(text, add_bos=False, add_eos=False)
    start = tokenizer.encode("The", add_bos=False, add_eos=False)
    assert both[: len(start)] == start
    writer.written = tuple(both[len(start) :])
    assert writer.answer("a", prefill="The") == text
    assert writer.answers(["a", "b"], prefill="The") == [text] * 2


def test_a_space_that_the_template_strips_is_not_written_twice(tmp_path: Path) -> None:
    tokenizer = auto_tokenizer(str(folder_of(tmp_path, TEMPLATES["trims"])))
    writer = copying(tokenizer)
    writer.written = tuple(tokenizer.encode(" words", add_bos=False, add_eos=False))
    assert writer.answer("Who?", prefill="These ") == "These words"


def test_rows_begin_their_answers(tmp_path: Path) -> None:
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
        ValueError, match="line 1: the answer begins with `prefill` and with the conversation's last"
    ):
        read_prompts(path, continue_final_message=True)
    path.write_text(json.dumps({"prompt": "a", "prefill": 5}))
    with pytest.raises(ValueError, match="line 1: prefill: expected a text with something in it, got 5"):
        read_prompts(path)
