"""Operations on traced text match plain strings, and origins locate the source of every part."""

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


def traced_text(parts: list[str]) -> Traced:
    """Join the parts into a traced text; each part is its own source."""
    text = joined(Traced.from_source(part, i) for i, part in enumerate(parts))
    assert isinstance(text, Traced)
    return text


def check(actual: object, expected: object, parts: list[str]) -> None:
    """Assert that a result equals the plain-string result and that its origins match their source."""
    assert actual == expected
    if isinstance(actual, (list, tuple)):
        for one, other in zip(actual, expected, strict=True):  # type: ignore[call-overload]  # both are lists or tuples
            check(one, other, parts)
    if isinstance(actual, Traced):
        for start, end, source, offset in actual.origins:
            assert 0 <= start <= end <= len(actual)
            if offset != CHANGED:
                part = parts[source][offset : offset + end - start]
                assert str.__str__(actual)[start:end].casefold() == part.casefold()


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


@pytest.mark.quick_cases(7)
@pytest.mark.parametrize(("name", "arguments"), OPERATIONS)
@settings(deadline=None, max_examples=25)
@given(parts=PARTS)
def test_operations_on_traced_text_match_plain_text(
    name: str, arguments: tuple[Any, ...], parts: list[str]
) -> None:
    text = traced_text(parts)
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
def test_traced_json_matches_json_dumps(value: Any, **settings: Any) -> None:
    call: Any = {"function": {"name": "f", "arguments": value}}
    message = Message(role="assistant", content="", tool_calls=[call])
    (traced,) = Conversation.trace(ChatTemplate(""), [message], None).messages
    arguments = traced["tool_calls"][0]["function"]["arguments"]
    assert isinstance(arguments, JsonObject)
    text = to_json(arguments, **settings)
    assert text == json.dumps(value, **settings)
    for start, end, source, offset in text.origins if isinstance(text, Traced) else ():
        assert 0 <= start <= end <= len(text), (source, offset)


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
def test_rendered_parts_are_located_in_every_expression(expression: str) -> None:
    template = ChatTemplate("{% for m in messages %}|{{ " + expression + " }}|{% endfor %}")
    messages = [Message(role="user", content=word) for word in ("one-two", "three-four")]
    traced = Conversation.trace(template, messages, None)
    rendered = template.render(traced.messages, add_generation_prompt=False)
    assert rendered.text == template.render(messages, add_generation_prompt=False).text
    first, second = rendered.text.split("||")
    for i, source in enumerate(traced.sources):
        if source.part == "content":
            spans = [(start, end) for start, end, number, _ in rendered.origins if number == i]
            assert spans, "the content has an origin"
            low, high = (0, len(first)) if source.message == 0 else (len(first) + 1, len(rendered.text))
            assert all(low <= start <= end <= high for start, end in spans), (
                "all origins are in the part's own message"
            )
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
def test_origins_survive_macros_and_variables(macro: str) -> None:
    template = ChatTemplate(macro)
    traced = Conversation.trace(template, [Message(role="user", content="word")], None)
    rendered = template.render(traced.messages, add_generation_prompt=False)
    (content,) = (i for i, source in enumerate(traced.sources) if source.part == "content")
    assert [rendered.text[start:end] for start, end, source, _ in rendered.origins if source == content] == [
        "word"
    ]
