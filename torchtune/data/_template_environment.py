"""The Jinja environment of chat templates: a sandbox with limits that keeps track of the origins of text.

Settings and names follow Hugging Face's documentation of chat templates
(https://huggingface.co/docs/transformers/chat_templating_writing), so that a template renders the same text in both
libraries.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import date as Date
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from attrs import frozen
from jinja2 import Environment as JinjaEnvironment
from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_eval_context
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from torchtune.data._traced import Sourced, Traced, as_text, changed, joined, sources_in, to_json

TIME_LIMIT = 10.0
"""Time limit of a template for one conversation (seconds of this thread's processor time)."""

MAX_REPEATED = 10**7
"""Maximum length of a repeated string or list, such as `"-" * 80`."""

MAX_BITS = 10**5
"""Maximum size of a power (bits)."""

MAX_WIDTH = 10**4
"""Maximum width to which a filter pads or wraps text (characters)."""

GENERATION = -1
"""The source of the template's `{% generation %}` blocks."""

CLOCK = "strftime_now"
"""The name of the function that formats today's date in templates."""

_deadline: ContextVar[float] = ContextVar("deadline")
"""Time at which the running template is stopped (seconds of this thread's processor time)."""


@frozen
class Compiled:
    """A compiled template."""

    template: Template
    variables: frozenset[str]
    """Variables that the template reads but does not set."""

    def render(self, variables: Mapping[str, Any]) -> str:
        """Run the template within the time limit; the text is `Traced` if its variables are.

        Raises:
            Exception: any exception that the template raises.
        """
        token = _deadline.set(time.thread_time() + TIME_LIMIT)
        try:
            return self.template.render(variables)
        finally:
            _deadline.reset(token)


def compile_template(source: str, date: str | None) -> Compiled:
    """Compile a chat template.

    Args:
        source: The template's text.
        date: The date that the template receives as today's (YYYY-MM-DD). None: a template that uses today's date
            raises an error.

    Raises:
        jinja2.TemplateSyntaxError: the template is not valid Jinja.
    """
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.globals["raise_exception"] = _raise_exception
    del environment.globals["lipsum"]
    tree = environment.parse(source)
    variables = frozenset(meta.find_undeclared_variables(tree))  # excludes the globals defined so far
    environment.globals[CLOCK] = _clock(date)
    tree = _Rewriter().visit(tree)
    return Compiled(environment.from_string(tree), variables)


class _Generation(Extension):
    """`{% generation %}` blocks, around the text that the model generates."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Macro) -> str:
        text = caller()
        block = (0, len(text), GENERATION, 0)
        return Traced(str.__str__(text), (block, *text.origins) if isinstance(text, Traced) else (block,))


class _Rewriter(NodeTransformer):
    """Adds a time check to every loop and macro, and replaces concatenation by a function that keeps origins."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        join = nodes.EnvironmentAttribute("concatenated")
        return nodes.Call(join, node.nodes, [], None, None).set_lineno(node.lineno, override=True)

    def _timed(self, node: nodes.For | nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        check = nodes.ExprStmt(nodes.EnvironmentAttribute("checked_time"))
        node.body.insert(0, check.set_lineno(node.lineno, override=True))
        return node

    visit_For = visit_Macro = _timed  # noqa: N815 - Jinja's names


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, extended to keep origins and to limit the size of results."""

    intercepted_binops = frozenset({"*", "**", "%"})
    concat = staticmethod(joined)

    def __init__(self, **settings: Any) -> None:
        super().__init__(finalize=_finalized, **settings)
        self.filters = {name: _traced_filter(function) for name, function in FILTERS.items()}
        for name in ("center", "indent", "wordwrap"):  # nothing else limits their widths
            self.filters[name] = _with_bounded_width(self.filters[name])
        self.filters |= {"tojson": to_json, "join": _join, "string": as_text, "safe": _safe}

    def call(self, __self: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # Jinja's names
        # Jinja wraps some methods, such as `str.format`.
        method = None if isinstance(__obj, Undefined) else getattr(__obj, "__wrapped__", __obj)
        owner = method.__self__ if isinstance(method, (MethodType, BuiltinMethodType)) else None
        if type(owner) is not str:
            return super().call(__self, __obj, *args, **kwargs)
        if __obj.__name__ == "join" and len(args) == 1 and not kwargs:
            return joined(args[0], owner)
        result = super().call(__self, __obj, *args, **kwargs)
        return changed(result, args, kwargs) if type(result) is str else result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator != "%":
            _check_size(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        return changed(result, left, right) if type(result) is str else result

    def concatenated(self, *values: Any) -> str:
        """Concatenate values as the operator `~` does."""
        return joined(map(as_text, values))

    @property
    def checked_time(self) -> None:
        """Stop a template that runs for too long; the sandbox limits ranges, but not nested loops."""
        if time.thread_time() > _deadline.get():
            raise RuntimeError(f"it ran for more than {TIME_LIMIT:g} seconds")


class _Safe(Markup, Sourced):
    """Text marked by the filter `safe`; Jinja HTML-escapes text that is added to it."""

    @classmethod
    def computed_from(cls, text: str, *values: object) -> "_Safe":
        """Build safe text with the sources of the values that it was computed from."""
        self = cls(text)
        self.sources = tuple(dict.fromkeys(source for value in values for source in sources_in(value)))
        return self

    def __add__(self, other: Any) -> "_Safe":
        return self.computed_from(super().__add__(other), self, other)

    def __radd__(self, other: Any) -> "_Safe":
        return self.computed_from(super().__radd__(other), self, other)


def _safe(value: Any) -> _Safe:
    return _Safe.computed_from(str.__str__(as_text(value)), value)


def _finalized(value: Any) -> Any:
    """Convert a list, an object or marked text to text that keeps the origins of its contents."""
    return as_text(value) if isinstance(value, (dict, list, tuple, _Safe)) else value


def _traced_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that its result keeps the origins of its input."""

    @wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        values = [arg for arg in args if not isinstance(arg, (JinjaEnvironment, EvalContext))]
        if type(result) is Markup:
            return _Safe.computed_from(result, values, kwargs)
        return changed(result, values, kwargs) if type(result) is str else result

    return traced


@pass_eval_context
def _join(context: EvalContext, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    """Join items as Jinja's filter does."""
    items = value if attribute is None else map(make_attrgetter(context.environment, attribute), value)
    return joined(map(as_text, items), d)


def _with_bounded_width(function: Callable[..., str]) -> Callable[..., str]:
    """Wrap a filter so that it rejects a width that would exhaust memory."""

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> str:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and value > MAX_WIDTH:
                raise ValueError(f"the text width {value} exceeds the maximum of {MAX_WIDTH:,} characters")
        return function(*args, **kwargs)

    return bounded


def _check_size(operator: str, left: Any, right: Any) -> None:
    """Raise ValueError if the result of an operation would exhaust memory."""
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_BITS:
            raise ValueError(f"the result of ** would have more than {MAX_BITS:,} bits")
    else:
        for items, times in ((left, right), (right, left)):
            if (
                isinstance(items, (str, list, tuple))
                and isinstance(times, int)
                and len(items) * times > MAX_REPEATED
            ):
                raise ValueError(f"the result of repeating {len(items)} items {times} times is too large")


def _clock(date: str | None) -> Callable[[str], str]:
    def strftime_now(format: str) -> str:  # noqa: A002 - transformers' name
        if date is None:
            raise ValueError(
                "it uses today's date, which makes runs irreproducible; set a fixed date, such as"
                f" tokenizer.date={Date.today():%Y-%m-%d}"  # noqa: DTZ011 - only an example
            )
        return Date.fromisoformat(date).strftime(format)

    return strftime_now


def _raise_exception(message: str) -> NoReturn:
    """Raise an error on behalf of a template."""
    raise TemplateError(message)
