"""Traced text is compared with plain text, and its origins with where unique words are found."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchtune.data import ChatTemplate, Message
from torchtune.data._conversation import Conversation
from torchtune.data._traced import CHANGED, JsonObject, Traced, joined, to_json

TEXT = st.text(alphabet='ab <>/\n\té\U0001f389"\\', max_size=14)
PARTS = st.lists(TEXT, min_size=1, max_size=4)


def whole(parts: list[str]) -> Traced:
    """Join texts, each of a source of its own."""
    text = joined(Traced.of_source(part, i) for i, part in enumerate(parts))
    assert isinstance(text, Traced)
    return text


def check(found: object, expected: object, parts: list[str]) -> None:
    """Compare with what plain text gives, and each piece with its source."""
    assert found == expected
    if isinstance(found, (list, tuple)):
        for one, other in zip(found, expected, strict=True):  # type: ignore[call-overload]  # both are lists
            check(one, other, parts)
    if isinstance(found, Traced):
        for start, end, source, offset in found.origins:
            assert 0 <= start <= end <= len(found)
            if offset != CHANGED:
                piece = parts[source][offset : offset + end - start]
                assert str.__str__(found)[start:end].casefold() == piece.casefold()


OPERATIONS: list[tuple[str, tuple[Any, ...]]] = [
    *(
        (name, ())
        for name in ("strip", "lstrip", "rstrip", "upper", "lower", "title", "split", "rsplit", "splitlines")
    ),
    *((name, ("a ",)) for name in ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix")),
    *(
        (name, ("a",))
        for name in ("split", "rsplit", "partition", "rpartition", "startswith", "count", "find")
    ),
    *((name, ("a", 1)) for name in ("split", "rsplit")),
    *(("splitlines", (True,)), ("replace", ("a", "xyz")), ("replace", ("", "-")), ("replace", ("a", "", 1))),
    *(
        ("__getitem__", (key,))
        for key in (slice(1, -1), slice(None, None, -1), slice(3, 1), slice(2, None, 2))
    ),
    *(
        ("center", (20,)),
        ("__mul__", (2,)),
        ("__rmul__", (3,)),
        ("__add__", ("b",)),
        ("__contains__", ("b",)),
    ),
    *(("join", (["x", "y", "z"],)), ("__len__", ()), ("__hash__", ()), ("__eq__", ("a",)), ("encode", ())),
]


@pytest.mark.parametrize(("name", "arguments"), OPERATIONS)
@settings(deadline=None, max_examples=25)
@given(parts=PARTS)
def test_traced_text_computes_what_plain_text_does(
    name: str, arguments: tuple[Any, ...], parts: list[str]
) -> None:
    text = whole(parts)
    check(getattr(text, name)(*arguments), getattr("".join(parts), name)(*arguments), parts)
    assert [str.__str__(c) for c in text] == list("".join(parts))
    check("x" + text + "y" + text, "x" + "".join(parts) + "y" + "".join(parts), parts)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=80)
@given(
    value=st.dictionaries(TEXT, VALUES, max_size=4),
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 2, "\t"]),
    separators=st.sampled_from([None, (",", ":"), (" ; ", " = ")]),
    sort_keys=st.booleans(),
)
def test_traced_json_is_what_json_writes(value: Any, **how: Any) -> None:
    call: Any = {"function": {"name": "f", "arguments": value}}
    message = Message(role="assistant", content="", tool_calls=[call])
    (traced,) = Conversation.trace(ChatTemplate(""), [message], None).messages
    arguments = traced["tool_calls"][0]["function"]["arguments"]
    assert isinstance(arguments, JsonObject)
    found = to_json(arguments, **how)
    assert found == json.dumps(value, **how)
    for start, end, source, offset in found.origins if isinstance(found, Traced) else ():
        assert 0 <= start <= end <= len(found), (source, offset)


@pytest.mark.parametrize(
    "expression",
    [
        "m.content | trim",
        "m.content | upper | lower",
        "'[' ~ m.content ~ ']'",
        "['<', m.content, '>'] | join('')",
        "'-'.join([m.content, 'x'])",
        "'%s!' % m.content",
        "'{}!'.format(m.content)",
        "m.content.split('-')[0] + '-' + m.content.split('-')[1]",
        "m.content | replace('-', '+') | replace('+', '-')",
        "m | tojson",
        "m",
        "[m.content]",
        "(m | tojson | safe) + '!'",
        "'!' + (m.content | safe)",
        "(m.content ~ '<b>') | e",
        "m.content | indent(2) | wordwrap(60)",
        "m.content[0] ~ m.content[1:]",
        "m.content[::-1] | reverse",
        "dict(a=m.content) | tojson(indent=2)",
        "namespace(x=m.content).x",
        "m.content | list | join",
        "m.content | default('nothing')",
        "m.content.strip().removeprefix('x')",
    ],
)
def test_what_a_template_writes_of_a_text_is_known(expression: str) -> None:
    template = ChatTemplate("{% for m in messages %}|{{ " + expression + " }}|{% endfor %}")
    messages = [Message(role="user", content=word) for word in ("one-two", "three-four")]
    traced = Conversation.trace(template, messages, None)
    rendered = template.render(traced.messages, add_generation_prompt=False)
    assert rendered.text == template.render(messages, add_generation_prompt=False).text
    first, second = rendered.text.split("||")
    for i, source in enumerate(traced.sources):
        if source.part == "content":
            spans = [(start, end) for start, end, number, _ in rendered.origins if number == i]
            assert spans, "it is known to be there"
            low, high = (0, len(first)) if source.message == 0 else (len(first) + 1, len(rendered.text))
            assert all(low <= start <= end <= high for start, end in spans), "and nowhere else"
    assert second


@pytest.mark.parametrize(
    "macro",
    [
        "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(messages[0].content) | trim }}",
        "{% set x %}<{{ messages[0].content }}>{% endset %}{{ x.strip('<>') }}",
        "{% filter trim %}  {{ messages[0].content }}  {% endfilter %}",
        "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x + m.content %}{% endfor %}{{ ns.x }}",
        "{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}{{ messages[0].content }}{% endcall %}",
    ],
)
def test_origins_survive_what_is_written_into_a_variable(macro: str) -> None:
    template = ChatTemplate(macro)
    traced = Conversation.trace(template, [Message(role="user", content="word")], None)
    rendered = template.render(traced.messages, add_generation_prompt=False)
    (content,) = (i for i, source in enumerate(traced.sources) if source.part == "content")
    assert [rendered.text[start:end] for start, end, source, _ in rendered.origins if source == content] == [
        "word"
    ]
