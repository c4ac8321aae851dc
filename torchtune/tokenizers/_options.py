"""Options that all tokenizers accept."""

import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict


class TokenizerOptions(TypedDict, total=False):
    """Options that all tokenizers accept; null is the default."""

    chat_template: str | os.PathLike[str] | None
    """Chat template: the path of a Jinja file, or the name of a template that is stored with the tokenizer, such as
    `tool_use` or `default`. Null: the tokenizer's default template."""
    template_arguments: dict[str, Any] | None
    """Arguments of the chat template, such as `{enable_thinking: false}`."""
    date: str | None
    """Current date for the chat template (YYYY-MM-DD)."""
    stop_tokens: Sequence[str] | None
    """Tokens that end an answer, in addition to the tokenizer's default stop tokens."""
    special_tokens_in_content: Sequence[str] | None
    """Special tokens to recognize in messages and plain text, such as `<think>`. All other special tokens in messages
    and plain text are encoded as ordinary text."""


def check_options(options: TokenizerOptions) -> None:
    """Check the names and values of options, as far as possible without a tokenizer.

    Raises:
        TypeError: An option is unknown.
        ValueError: An option has an invalid value.
    """
    known_names = TokenizerOptions.__annotations__
    for name in options:
        if name not in known_names:
            raise TypeError(f"a tokenizer has no option {name!r}{did_you_mean(name, known_names)}")
    _check_texts("stop_tokens", options.get("stop_tokens"))
    _check_texts("special_tokens_in_content", options.get("special_tokens_in_content"))
    _check_date(options.get("date"))
    _check_arguments(options.get("template_arguments"))


def options_text(options: TokenizerOptions) -> str:
    """Return a canonical string representation of the options that are set."""
    values: Mapping[str, Any] = options
    return json.dumps({name: values[name] for name in TokenizerOptions.__annotations__ if values.get(name)})


def did_you_mean(name: str, known_names: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or an empty string if no known name is similar."""
    import difflib

    matches = difflib.get_close_matches(name, [*known_names], 1, 0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unknown_token_error(option: str, token: str, known_tokens: Iterable[str]) -> ValueError:
    """Return the error for a token of an option that is not in the vocabulary."""
    suggestion = did_you_mean(token, known_tokens)
    return ValueError(
        f"{option}: {token!r} is not in the vocabulary{suggestion or '; remove it, or use a different token'}"
    )


def _check_texts(option: str, value: Any) -> None:  # a config in Python may pass any value
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
            raise ValueError("not in this format")
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
