"""Options that every tokenizer takes."""

import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict


class TokenizerOptions(TypedDict, total=False):
    """Options that every tokenizer takes; null stands for the default."""

    chat_template: str | os.PathLike[str] | None
    """Path of a Jinja file to use as chat template, or the name of a template that is stored with the tokenizer, such
    as `tool_use` or `default`. Null: the tokenizer's own."""
    template_arguments: dict[str, Any] | None
    """Arguments of the chat template, such as `{enable_thinking: false}`."""
    date: str | None
    """The date that the chat template gets as today's (YYYY-MM-DD)."""
    stop_tokens: Sequence[str] | None
    """Tokens of the vocabulary that end an answer, in addition to the tokenizer's own."""
    special_tokens_in_content: Sequence[str] | None
    """Special tokens that messages and plain texts may contain, such as `<think>`. They are encoded as the tokens that
    they name; all other special tokens in a message or a plain text are encoded as text."""


def check_options(options: TokenizerOptions) -> None:
    """Check the names and the values of options, as far as this is possible without a tokenizer.

    Raises:
        TypeError: there is no such option.
        ValueError: a value is not one that its option takes.
    """
    known = TokenizerOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"a tokenizer has no option {name!r}{did_you_mean(name, known)}")
    _check_texts("stop_tokens", options.get("stop_tokens"))
    _check_texts("special_tokens_in_content", options.get("special_tokens_in_content"))
    _check_date(options.get("date"))
    _check_arguments(options.get("template_arguments"))


def options_text(options: TokenizerOptions) -> str:
    """Write the options that are set as a text, the same for the same options."""
    values: Mapping[str, Any] = options
    return json.dumps({name: values[name] for name in TokenizerOptions.__annotations__ if values.get(name)})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or nothing where no known name is similar."""
    import difflib

    near = difflib.get_close_matches(name, [*known], 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_token(option: str, token: str, known: Iterable[str]) -> ValueError:
    """Return the error of a token in the value of an option that is none of the vocabulary."""
    near = did_you_mean(token, known)
    return ValueError(
        f"{option}: {token!r} is not a token of the vocabulary{near or '; name one that is, or leave it out'}"
    )


def _check_texts(option: str, value: Any) -> None:  # A config in Python may pass anything.
    if value is not None and (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(item, str) for item in value)
    ):
        raise ValueError(f"{option}: expected a list of tokens, got {value!r}")


def _check_date(value: Any) -> None:
    if value is None:
        return
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            raise ValueError("another form")
        dt.date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"date: expected YYYY-MM-DD, such as '2024-07-26', got {value!r}") from error


def _check_arguments(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"template_arguments: expected a mapping of values by name, got {value!r}")
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "template_arguments: expected text, numbers, true, false, null, lists and mappings of these,"
            f" got {value!r}"
        ) from error
