"""Chat templates: how a model family writes a conversation out as one text."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, NoReturn, NotRequired, TypedDict

from attrs import field, frozen

if TYPE_CHECKING:
    from jinja2 import Template

TIME_LIMIT = 10.0
"""How long one template may take for one conversation (seconds of this thread's processor time)."""

MAX_REPEATED = 10**7
"""How long a text or list may become by multiplication."""

MAX_BITS = 10**5
"""How large a power may become (binary digits)."""

MAX_WIDTH = 10**4
"""How wide a filter may make a text (characters)."""

_deadline: ContextVar[float] = ContextVar("deadline")


Span = tuple[int, int]
"""Where something begins and ends."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    """Who speaks: "system", "user" or "assistant", or what else the template knows."""
    content: str
    """What they say; empty where they only call a tool."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """The tools that an assistant calls, as OpenAI's chat API writes them."""
    tool_call_id: NotRequired[str]
    """Which call a tool's turn answers."""
    name: NotRequired[str]
    """The tool's name, in its own turn."""


@frozen
class Rendered:
    """A conversation as a template wrote it."""

    text: str
    answers: tuple[Span, ...]
    """Where the template's `{% generation %}` blocks begin and end in it, in characters: what the model is to write.
    Templates without such blocks have none."""


@frozen
class ChatTemplate:
    """A model's chat template, as its tokenizer_config.json or GGUF file holds it.

    The language is Jinja with the settings and names that Hugging Face documents for chat templates
    (https://huggingface.co/docs/transformers/chat_templating_writing), `{% generation %}` blocks among them, except
    `strftime_now`: a prompt that holds today's date would make the same run differ from day to day. Templates come
    with downloaded models, so they run in Jinja's sandbox, cannot change what they are given, and have a time limit.

    Raises:
        ValueError: it is not valid Jinja; the message has the line.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""
    tool_source: str | None = None
    """The template for conversations with tools, where the model has one of its own; null: `source`."""
    special_tokens: Mapping[str, Any] = field(factory=dict)
    """The tokenizer's other special tokens, by the names that templates know, such as `unk_token`."""
    arguments: Mapping[str, Any] = field(factory=dict)
    """Arguments of the template, such as `enable_thinking`."""
    date: str | None = None
    """The date that the template is given as today's (YYYY-MM-DD)."""

    def __attrs_post_init__(self) -> None:
        from jinja2 import TemplateSyntaxError

        try:
            _ = self._compiled
        except TemplateSyntaxError as error:
            raise ValueError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from error
        except RecursionError as error:
            raise ValueError("the chat template is not valid Jinja: it is nested too deeply") from error

    def render(
        self, messages: list[Message], add_generation_prompt: bool, tools: list[dict[str, Any]] | None = None
    ) -> str:
        """Write a conversation out.

        Args:
            messages: The turns, oldest first.
            add_generation_prompt: End with the words that open the assistant's answer.
            tools: JSON schemas of the tools that the assistant may call.

        Raises:
            ValueError: the template refuses these messages, fails, or takes too long.
        """
        return self.render_marked(messages, add_generation_prompt, tools).text

    def render_marked(
        self, messages: list[Message], add_generation_prompt: bool, tools: list[dict[str, Any]] | None = None
    ) -> Rendered:
        """Write a conversation out, and tell where the template says that the model's own words are.

        Args:
            messages: The turns, oldest first.
            add_generation_prompt: End with the words that open the assistant's answer.
            tools: JSON schemas of the tools that the assistant may call.

        Raises:
            ValueError: the template refuses these messages, fails, or takes too long.
        """
        mark = unused_mark(strings_in([messages, tools or []]))
        token = _deadline.set(time.thread_time() + TIME_LIMIT)
        try:
            text = self._compiled.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
                **self.special_tokens,
                **self.arguments,
                **{_MARK: mark},
            )
        except Exception as error:  # A template is a program of its own and may fail in any way.
            roles = ", ".join(message["role"] for message in messages)
            dated = "; it asks for today's date, with which no run can be repeated: write one into it"
            raise ValueError(
                f"the chat template refused messages of the roles {roles}: {error}"
                + (dated if "strftime_now" in str(error) else "")
            ) from error
        finally:
            _deadline.reset(token)
        return _without_marks(text, mark)

    @cached_property
    def _compiled(self) -> "Template":
        return _compile(self.source)


_MARK = "generation_mark"
"""The name under which a template's blocks find what they are to be marked with."""


def _compile(source: str) -> "Template":
    """Compile a template; Jinja is imported here, since few commands need it."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` blocks, around what the model is to write."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's own way.

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("mark", [nodes.ContextReference()])
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def mark(self, context: Context, caller: Macro) -> str:
            mark = context[_MARK]
            return f"{mark}{_OPENS}{caller()}{mark}{_CLOSES}"

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            _check_size(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def check_time(self) -> str:
            """Stop a template that runs for too long: the sandbox limits ranges, but not one within another."""
            if time.thread_time() > _deadline.get():
                raise RuntimeError(f"it runs for more than {TIME_LIMIT:g} seconds")
            return ""

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    environment.filters["tojson"] = _to_json
    for name in ("center", "indent", "wordwrap"):  # their widths are numbers that nothing else limits
        environment.filters[name] = _of_bounded_width(environment.filters[name])
    del environment.globals["lipsum"]
    environment.globals["raise_exception"] = _raise_exception
    tree = environment.parse(source)
    repeated: list[nodes.For | nodes.Macro] = [*tree.find_all(nodes.For), *tree.find_all(nodes.Macro)]
    for node in repeated:
        check = nodes.Call(nodes.EnvironmentAttribute("check_time"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(check).set_lineno(node.lineno, override=True))
    return environment.from_string(tree)


def _of_bounded_width(fill: Callable[..., str]) -> Callable[..., str]:
    """Let a filter refuse a width that would fill the memory."""

    @wraps(fill)
    def bounded(*args: Any, **kwargs: Any) -> str:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and value > MAX_WIDTH:
                raise ValueError(f"a width of {value} is too large")
        return fill(*args, **kwargs)

    return bounded


def _check_size(operator: str, left: Any, right: Any) -> None:
    """Refuse to compute what would fill the memory."""
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_BITS:
            raise ValueError("a power is too large")
    else:
        for items, times in ((left, right), (right, left)):
            if isinstance(items, (str, list, tuple)) and len(items) * times > MAX_REPEATED:
                raise ValueError(f"{len(items)} items {times} times are too many")


def unused_mark(texts: Iterable[str]) -> str:
    """Return a character that none of the texts has; it is of the private use area, which templates do without.

    Raises:
        ValueError: they have all of its 6,400 characters.
    """
    used = set().union(*texts)
    found = next((mark for code in range(0xE000, 0xF900) if (mark := chr(code)) not in used), None)
    if found is None:
        raise ValueError(
            "a conversation has every character of Unicode's private use area; take some out of it"
        )
    return found


def strings_in(value: Any) -> Iterator[str]:
    """Yield every text in messages and tools, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*strings_in(key), *strings_in(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


def _without_marks(text: str, mark: str) -> Rendered:
    """Take the marks out, of which an opening and a closing one are around each block; of nested ones the outer counts.

    Raises:
        ValueError: the template cut a block, so that it has no end.
    """
    opened = start = 0
    parts: list[str] = []
    answers: list[Span] = []
    before, *rest = text.split(mark)
    parts.append(before)
    at = len(before)
    for part in rest:
        if part.startswith(_OPENS):
            start = start if opened else at
            opened += 1
        elif part.startswith(_CLOSES) and opened:
            opened -= 1
            answers += [] if opened else [(start, at)]
        else:
            raise ValueError(_BROKEN)
        parts.append(part[1:])
        at += len(part) - 1
    if opened:
        raise ValueError(_BROKEN)
    return Rendered("".join(parts), tuple(answers))


_OPENS, _CLOSES = "<", ">"
_BROKEN = "the chat template cuts its {% generation %} blocks to pieces, so that it cannot be told what is to be learnt"


def _to_json(value: Any, indent: int | None = None) -> str:  # A template may pass anything it holds.
    """Write JSON as it is; Jinja's own filter escapes it for HTML."""
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    """Let a template refuse what it is given."""
    from jinja2 import TemplateError

    raise TemplateError(message)
