"""Every part of a conversation is in the tokens or in a note, for every chat template.

Each part of a random conversation is a unique word. Searching the decoded tokens for the word shows whether the part
is present, and does not depend on the tracing of origins.
"""

import copy
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from torchtune.data import ChatTemplate, Example
from torchtune.data._conversation import Conversation
from torchtune.data._coverage import Coverage
from torchtune.datasets import ChatDataset

HEAD = "<|im_start|>{{ m.role }}\n"
CALLS = (
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}"
)
TEMPLATES = {
    "only content": CHATML,
    "everything": (
        "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}" + HEAD +
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.name }}{{ m.note }}"
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}"
        "{{ m.tool_call_id }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "only the last reasoning": (
        "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}" + HEAD +
        "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content.strip() }}</think>{% endif %}"
        "{{ m.content | trim }}" + CALLS + "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "system turn in the first question": (
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if m.role == 'user' %}[INST] {% if loop.first and system %}<<SYS>>{{ system }}<</SYS>>{% endif %}"
        "{{ m.content }} [/INST]{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    ),
    "system turn in the last question": (
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[{% if loop.last %}"
        "{{ messages[0].content if messages[0].role == 'system' }} {% endif %}{{ m.content }}]"
        "{% elif m.role == 'tool' %}({{ m.content }}){% else %}{{ m.content }}" + CALLS + "<|im_end|>"
        "{% endif %}{% endfor %}"
    ),
    "other role names, no tools": (
        "{% for m in messages %}{% if m.role == 'user' %}<start>user\n{{ m.content }}<end>\n"
        "{% elif m.role == 'assistant' %}<start>model\n{{ m.content | trim }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start>model\n{% endif %}"
    ),
    "generation blocks": (
        "{% for m in messages %}" + HEAD + "{% if m.role == 'assistant' %}{% generation %}{{ m.thinking }}"
        "{{ m.content }}" + CALLS + "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
        "{% endfor %}"
    ),
    "macros and variables": (
        "{% macro turn(m) %}{{ caller(m) | trim }}{% endmacro %}{% set ns = namespace(text='') %}"
        "{% for m in messages %}{% set body %} {{ m.content }} {% for c in m.tool_calls or [] %}"
        "{{ [c.function.name, c.function.arguments | tojson] | join(': ') }}{% endfor %}{% endset %}"
        "{% set ns.text = ns.text ~ '<|im_start|>' ~ m.role ~ '\n' ~ body.strip() ~ '<|im_end|>\n' %}{% endfor %}"
        "{{ ns.text }}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "messages as JSON": (
        "{{ tools | tojson if tools }}{% for m in messages %}{{ m | tojson(sort_keys=true) }}<|im_end|>\n{% endfor %}"
    ),
    "only the first call": (
        "{% for m in messages %}" + HEAD + "{{ m.content }}{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
        "{{ '%s(%s)' % (f.name, f.arguments | tojson) }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "calls instead of content": (
        "{% for t in tools or [] %}{{ t.function.name }}: {{ t.function.description }}\n{% endfor %}"
        "{% for m in messages %}" + HEAD + "{% if m.tool_calls %}" + CALLS +
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "only the last turns": (
        "{% for m in messages[-3:] %}" + HEAD + "{{ m.content }}{{ m.reasoning_content }}" + CALLS + "<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "content after reasoning": (
        "{% for m in messages %}" + HEAD + "{% set said = m.content.split('</think>')[-1] %}{{ said.lstrip('\n') }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}  # fmt: skip
"""Templates in the style of model families, and artificial templates; each drops different parts."""

Part = tuple[Any, ...]
"""The path of a part within a row: a tuple of keys and indices."""


class Draws:
    """Generates unique words and makes random choices."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw, self._n = draw, 0

    def word(self) -> str:
        self._n += 1
        return f"w{self._n}w"

    def chance(self, probability: float = 0.5) -> bool:
        return self._draw(st.integers(1, 100)) <= 100 * probability

    def repetitions(self, maximum: int) -> range:
        return range(self._draw(st.integers(1, maximum)))

    def call(self) -> dict[str, Any]:
        value: Any = self._draw(st.sampled_from([self.word(), [self.word(), 1], {"x": self.word()}]))
        function = {"name": self.word(), "arguments": {self.word(): value}}
        return {"id": self.word(), "type": "function", "function": function}

    def tool_call_turns(self) -> list[dict[str, Any]]:
        """Draw an assistant turn with tool calls, followed by the tool turns."""
        calls = [self.call() for _ in self.repetitions(2)]
        turn = {"role": "assistant", "content": self.word() if self.chance(0.3) else "", "tool_calls": calls}
        return [turn, *({"role": "tool", "tool_call_id": c["id"], "content": self.word()} for c in calls)]

    def answer(self) -> dict[str, Any]:
        """Draw an answer, possibly with reasoning."""
        turn = {"role": "assistant", "content": self.word()}
        if self.chance(0.4):
            turn[self._draw(st.sampled_from(["reasoning_content", "reasoning", "thinking"]))] = self.word()
        elif self.chance(0.3):
            turn["content"] = f"<think>\n{self.word()}\n</think>\n\n{self.word()}"
        return turn | ({"note": self.word()} if self.chance(0.2) else {})

    def tool(self) -> dict[str, Any]:
        schema = {"type": "object", "properties": {self.word(): {"type": "string"}}}
        function = {"name": self.word(), "description": self.word(), "parameters": schema}
        return {"type": "function", "function": function}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a conversation in which every part is a unique word."""
    draws = Draws(draw)
    messages: list[dict[str, Any]] = [{"role": "system", "content": draws.word()}] if draws.chance() else []
    for _ in draws.repetitions(3):
        messages.append(
            {"role": "user", "content": draws.word()} | ({"name": draws.word()} if draws.chance(0.2) else {})
        )
        messages += draws.tool_call_turns() if draws.chance(0.4) else []
        messages.append(draws.answer())
    if draws.chance(0.2):
        messages.append({"role": "user", "content": draws.word()})
    row: dict[str, Any] = {"messages": messages}
    if draws.chance():
        row["tools"] = [draws.tool() for _ in draws.repetitions(2)]
    if draws.chance(0.3):
        row["id"] = draws.word()
    return row


def parts_of(row: dict[str, Any]) -> list[Part]:
    """Return the path of every part that can be removed."""
    paths: list[Part] = [("id",)] if "id" in row else []
    for i, tool in enumerate(row.get("tools", [])):
        paths += [
            ("tools", i),
            *(("tools", i, "function", key) for key in ("description", "parameters")),
        ]
        del tool
    for i, message in enumerate(row["messages"]):
        paths += [
            ("messages", i),
            *(("messages", i, key) for key in message if key != "role" and message[key]),
        ]
        for j, call in enumerate(message.get("tool_calls", [])):
            path = ("messages", i, "tool_calls", j)
            paths += [path, (*path, "id")]
            paths += [(*path, "function", "arguments", key) for key in call["function"]["arguments"]]
    return paths


def remove(row: dict[str, Any], part: Part) -> dict[str, Any]:
    """Return the row without the part; removed content becomes an empty string."""
    row = copy.deepcopy(row)
    parent: Any = row
    for key in part[:-1]:
        parent = parent[key]
    if part[-1] == "content":
        parent["content"] = ""
    else:
        del parent[part[-1]]
        if part[-2:-1] == ("tool_calls",) and not parent:
            del row["messages"][part[1]]["tool_calls"]
    return row


@cache
def tokenizer_of(template: str) -> ByteTokenizer:
    return ByteTokenizer(template)


Outcome = Callable[[dict[str, Any]], tuple[str | None, list[str]]]
"""Returns the decoded tokens and the notes of a row, or None and the error if the row is rejected."""


def outcome_of(template: str) -> Outcome:
    """Return a function that encodes rows with a ChatDataset."""

    def outcome(row: dict[str, Any]) -> tuple[str | None, list[str]]:
        tokenizer = tokenizer_of(template)
        try:
            example = ChatDataset(tokenizer, [row])[0]
        except ValueError as error:
            return None, [str(error)]
        assert isinstance(example, Example)
        return tokenizer.decode(example.tokens), [f"{note.text}: {note.example}" for note in example.notes]

    return outcome


def words_in(value: Any) -> set[str]:
    return set(re.findall(r"w\d+w", json.dumps(value)))


def identifiers(row: dict[str, Any]) -> set[str]:
    return {call["id"] for message in row["messages"] for call in message.get("tool_calls", [])}


def names(row: dict[str, Any], part: Part) -> list[str]:
    """Return the names that notes may use for a part."""
    if part[0] == "id":
        return ["'id'"]
    if part[0] == "tools":
        return [f"'{part[-1]}' in tools", "have tools that"]
    message = row["messages"][part[1]]
    fields = [str(key) for key in part[2:] if isinstance(key, str)] or list(message)
    candidates = [
        "turns after the last answer",
        f"{message['role']} turns that",
        "content next to tool calls",
    ]
    candidates += (
        ["reasoning"] if set(fields) & {"reasoning_content", "reasoning", "thinking", "content"} else []
    )
    return candidates + [f"'{field}" for field in fields] + [f"tool_calls.{field}" for field in fields]


def check(template: ChatTemplate | None, outcome: Outcome, row: dict[str, Any]) -> None:
    """Assert that every part is in the tokens or in a note, and that notes report only missing parts."""
    text, reports = outcome(row)
    if text is None:
        (error,) = reports
        if "does not render" in error:
            assert template is not None
            turns, tools = row["messages"], row.get("tools")
            end = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant") + 1
            missing = words_in(error.rpartition(": ")[2])
            assert missing
            # A dataset drops the turns after the last answer before it renders the conversation.
            traced = [Conversation.trace(template, part, tools) for part in (turns, turns[:end])]
            texts = [
                template.render(t.messages, add_generation_prompt=False, tools=t.tools).text for t in traced
            ]
            assert any(not missing & words_in(rendered) for rendered in texts)
        return
    for part in parts_of(row):
        other, _ = outcome(remove(row, part))
        if other == text:
            assert any(name in report for report in reports for name in names(row, part)), (part, reports)
    # A tool call and its tool turn have the same identifier, and a template may render the call's index instead.
    word_reports = [report for report in reports if not report.rpartition(": ")[0].endswith("id")]
    assert bool(words_in(row) - words_in(text) - identifiers(row)) == bool(word_reports), reports
    for report in word_reports:
        assert not words_in(report.rpartition(": ")[2]) & words_in(text), report


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(row=rows())
def test_every_part_is_in_the_tokens_or_in_a_note(name: str, row: dict[str, Any]) -> None:
    check(tokenizer_of(TEMPLATES[name]).chat_template, outcome_of(TEMPLATES[name]), row)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(row=rows())
def test_every_part_is_in_the_tokens_or_in_a_note_for_many_rows(name: str, row: dict[str, Any]) -> None:
    check(tokenizer_of(TEMPLATES[name]).chat_template, outcome_of(TEMPLATES[name]), row)


@pytest.mark.parametrize(
    "name", [name for name in TEMPLATES if name not in ("everything", "messages as JSON")]
)
def test_the_check_fails_if_notes_are_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [
        {
            "id": f"w{n}w",
            "type": "function",
            "function": {"name": f"w{n + 1}w", "arguments": {f"w{n + 2}w": f"w{n + 3}w"}},
        }
        for n in (20, 30)
    ]
    row = {
        "messages": [
            {"role": "system", "content": "w5w"},
            {"role": "user", "content": "w6w", "name": "w7w"},
            {"role": "assistant", "content": "w8w", "tool_calls": calls},
            {"role": "tool", "content": "w9w", "tool_call_id": "w20w"},
            {"role": "assistant", "content": "<think>w10w</think>w11w"},
        ]
    }
    check(tokenizer_of(TEMPLATES[name]).chat_template, outcome_of(TEMPLATES[name]), row)
    monkeypatch.setattr(Coverage, "notes", lambda _: [])
    with pytest.raises(AssertionError):
        check(tokenizer_of(TEMPLATES[name]).chat_template, outcome_of(TEMPLATES[name]), row)
