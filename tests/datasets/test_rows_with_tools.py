"""Tool calls, reasoning and rare roles are encoded or reported in every row format."""

import json
from typing import Any

import pytest

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from tests.datasets.expected_examples import (
    AGENT,
    BLOCKS,
    NO_TOOLS,
    Piece,
    answer_target,
    assistant,
    example,
    notes_of,
    question_text,
    user,
)
from torchtune.data import Example, Pair, SkippedRow
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset

CALL = {"type": "function", "function": {"name": "find", "arguments": {"city": "Rome"}}}
CALLING = assistant(None, tool_calls=[CALL])
RESULT = {"role": "tool", "content": "Sun"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
WRITTEN = '<call>find {"city": "Rome"}</call>'


def read(row: dict[str, Any], template: str = AGENT, **settings: Any) -> Example | SkippedRow:
    return ChatDataset(ByteTokenizer(template), [row], **settings)[0]


# Tool calls that the template does not render


@pytest.mark.parametrize("template", [CHATML, NO_TOOLS], ids=["content only", "two roles"])
@pytest.mark.parametrize(
    "messages",
    [
        [user(), assistant(), user(), CALLING],
        [
            user(),
            assistant("", function_call={"name": "find", "arguments": '{"city": "Rome"}'}),
            RESULT,
            assistant(),
        ],
        [user(), assistant("One moment.", tool_calls=[CALL]), RESULT, assistant()],
        [user(), {**CALLING, "weight": 0}, RESULT, assistant()],
    ],
    ids=["as the last turn", "older format", "after text", "not a target"],
)
def test_a_call_that_the_template_does_not_render_raises_an_error_with_the_row(
    template: str, messages: list[dict[str, Any]]
) -> None:
    tokenizer, good = ByteTokenizer(template), {"messages": [user(), assistant()]}
    with pytest.raises(ValueError, match=r"source: row 1: the chat template does not render tool calls"):
        ChatDataset(tokenizer, [{"messages": messages}])
    skipping = ChatDataset(tokenizer, [good, {"messages": messages}], on_error="skip")
    encoded = skipping[1]
    assert isinstance(encoded, SkippedRow)
    assert "the chat template does not render tool calls" in encoded.location
    assert isinstance(skipping[0], Example)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": [CALLING], "rejected": "No."},
        {"prompt": "Q", "chosen": "No.", "rejected": [CALLING]},
        {"prompt": [user(), CALLING, RESULT], "chosen": "Yes.", "rejected": "No."},
    ],
    ids=["chosen", "rejected", "in the prompt"],
)
def test_calls_in_preferences_are_checked(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"source: row 1: the chat template does not render tool calls"):
        PreferenceDataset(ByteTokenizer(), [row])
    pair = PreferenceDataset(ByteTokenizer(AGENT), [row])[0]
    assert isinstance(pair, Pair)
    assert WRITTEN in ByteTokenizer().decode(pair.chosen.tokens) + ByteTokenizer().decode(
        pair.rejected.tokens
    )


def test_tools_that_the_template_does_not_render_are_reported() -> None:
    for row in ({"tools": [TOOL]}, {"tools": json.dumps([TOOL])}, {"functions": [TOOL["function"]]}):
        encoded = read({"messages": [user(), assistant()], **row}, CHATML)
        assert encoded == example(question_text(), answer_target())
        assert notes_of(encoded) == [
            "have tools that the chat template does not render: tools.0.function.name: 'find'"
        ]


# Tool call formats


@pytest.mark.parametrize(
    "turn",
    [
        CALLING,
        assistant("", tool_calls=[{"name": "find", "arguments": {"city": "Rome"}}]),
        assistant(None, tool_calls=[{"name": "find", "arguments": '{"city": "Rome"}'}]),
        assistant(None, tool_calls=json.dumps([CALL])),
        {"role": "assistant", "function_call": {"name": "find", "arguments": ' {"city":\n"Rome"} '}},
        {"from": "function_call", "value": '{"name": "find", "arguments": {"city": "Rome"}}'},
        {"from": "tool_call", "value": '[{"name": "find", "arguments": "{\\"city\\": \\"Rome\\"}"}]'},
        {"role": "tool_call", "content": {"name": "find", "arguments": {"city": "Rome"}}},
        {"from": "gpt", "value": None, "tool_calls": [{"name": "find", "parameters": {"city": "Rome"}}]},
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_every_call_format_produces_the_same_tokens(turn: dict[str, Any], last: bool) -> None:
    after = [] if last else [RESULT, user("And?"), assistant("Sun.")]
    later: list[Piece] = [
        f"\n<|im_start|>tool\nSun<|im_end|>\n{question_text('And?')}",
        answer_target("Sun."),
    ]
    expected = example(question_text(), answer_target(WRITTEN), *([] if last else later))
    assert read({"messages": [user(), turn, *after]}) == expected
    assert read({"conversations": json.dumps([user(), turn, *after])}) == expected


def test_multiple_calls_and_nested_arguments_keep_their_order() -> None:
    arguments = {"z": {"b": [1, 2.5, None, True], "a": 'é"\n'}, "a": {}}
    calls = [{"name": "one", "arguments": json.dumps(arguments)}, {"name": "two", "arguments": ""}]
    rendered = f"<call>one {json.dumps(arguments, ensure_ascii=False)}</call><call>two {{}}</call>"
    for row in (
        {"messages": [user(), assistant(None, tool_calls=calls)]},
        {"messages": [user(), {"from": "function_call", "value": json.dumps(calls)}]},
    ):
        assert read(row) == example(question_text(), answer_target(rendered))


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            {"from": "function_call", "value": "find(Rome)"},
            "'conversations.1': expected a tool call as JSON, got text",
        ),
        (
            {"from": "function_call", "value": '{"city": "Rome"}'},
            "'conversations.1': expected tool calls, each with a name",
        ),
        (
            assistant(None, tool_calls=[{"name": "find", "arguments": "{city: Rome}"}]),
            "expected arguments as JSON, got text",
        ),
        (
            assistant(None, tool_calls=[CALL], function_call={"name": "f"}),
            "has both 'tool_calls' and the older",
        ),
        (assistant([{"type": "tool_use", "name": "find", "input": {}}]), "only text parts are supported"),
    ],
)
def test_an_invalid_call_raises_an_error_with_the_row(turn: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="source: row 1: ") as raised:
        read({"conversations": [user(), turn]})
    assert message in str(raised.value)


# Reasoning


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(("template", "tags"), [(AGENT, ("<r>", "</r>")), (BLOCKS, ("<t>", "</t>"))])
def test_reasoning_is_a_target_under_every_field_name(
    field: str, template: str, tags: tuple[str, str]
) -> None:
    turns = [user(), assistant(**{field: "Hm."}), user("And?"), assistant("B", **{field: "So."})]
    first, second = ("".join((tags[0], thought, tags[1])) for thought in ("Hm.", "So."))
    expected = example(
        question_text(), answer_target(f"{first}A"), f"\n{question_text('And?')}", answer_target(f"{second}B")
    )
    assert read({"messages": turns}, template) == expected
    assert read({"messages": json.dumps(turns)}, template) == expected
    parts = assistant([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "A"}])
    assert read({"messages": [user(), parts]}, template) == example(
        question_text(), answer_target(f"{first}A")
    )
    pair = PreferenceDataset(
        ByteTokenizer(template), [{"prompt": "Q", "chosen": [turns[1]], "rejected": "C"}]
    )[0]
    assert isinstance(pair, Pair)
    assert pair.chosen == example(question_text(), answer_target(f"{first}A"))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_that_the_template_does_not_render_raises_an_error_with_the_row(field: str) -> None:
    for messages in (
        [user(), assistant(**{field: "Hm."})],
        [user(), assistant(), user(), assistant(None, **{field: "Hm."})],
    ):
        with pytest.raises(ValueError, match=r"row 1: .*does not render the assistant.s reasoning.*'Hm\.'"):
            read({"messages": messages}, CHATML)
    blank = assistant(**{field: "\n"})
    assert read({"messages": [user(), blank]}, CHATML) == example(question_text(), answer_target())


# Roles


@pytest.mark.parametrize("location", ["in the turns", "in the prompt", "as a preference"])
def test_developer_turns_become_system_turns_if_the_template_does_not_support_them(location: str) -> None:
    first, tokenizer = {"role": "developer", "content": "Be kind."}, ByteTokenizer()
    expected = example(f"<|im_start|>system\nBe kind.<|im_end|>\n{question_text()}", answer_target())
    if location == "in the turns":
        encoded = read({"messages": [first, user(), assistant()]}, CHATML, system="Not this.")
    elif location == "in the prompt":
        encoded = read({"prompt": [first, user()], "completion": "A"}, CHATML)
    else:
        pair = PreferenceDataset(tokenizer, [{"prompt": [first, user()], "chosen": "A", "rejected": "B"}])[0]
        assert isinstance(pair, Pair)
        encoded = pair.chosen
    assert encoded == expected
    with_developer = f"{CHATML}{{% if messages[0].role == 'developer' %}}{{% endif %}}"
    as_developer = read({"messages": [first, user(), assistant()]}, with_developer)
    assert isinstance(as_developer, Example)
    assert tokenizer.decode(as_developer.tokens).startswith("<|im_start|>developer\nBe kind.")


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([{"role": "developer", "content": "D"}, user(), assistant()], "system turns"),
        ([{"role": "system", "content": "D"}, user(), assistant()], "system turns"),
        ([user(), assistant("B"), {"role": "tool", "content": "D"}, assistant()], "tool turns"),
        (
            [
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "B"},
                {"from": "observation", "value": "D"},
                assistant(),
            ],
            "tool turns",
        ),
    ],
)
def test_a_turn_that_the_template_does_not_render_is_reported(
    messages: list[dict[str, Any]], kind: str
) -> None:
    encoded = read({"messages": messages}, NO_TOOLS)
    (note,) = notes_of(encoded)
    assert note.startswith(f"have {kind} that the chat template does not render: messages.")
    assert note.endswith(".content: 'D'")


def test_a_system_turn_that_the_template_does_not_render_is_reported() -> None:
    tokenizer = ByteTokenizer(NO_TOOLS)
    rows = [{"instruction": "Q", "output": "A", "system": "D"}]
    encoded = [
        read({"messages": [user(), assistant()]}, NO_TOOLS, system="D"),
        read({"messages": [user(), assistant()], "system": "D"}, NO_TOOLS),
        InstructDataset(tokenizer, rows)[0],
        InstructDataset(tokenizer, [{"instruction": "Q", "output": "A"}], system="D")[0],
    ]
    for one in encoded:
        assert one == example(question_text(opening="model\n"), answer_target())
        assert notes_of(one) == [
            "have system turns that the chat template does not render: messages.0.content: 'D'"
        ]
