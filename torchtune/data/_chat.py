"""Encode conversations with a chat template.

Message text is never encoded as special tokens, except those that the tokenizer allows in content: text such as
"<|im_end|>" inside a message is encoded as plain text, so that no message can end its own turn or start another.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from attrs import frozen

from torchtune.data._answers import ChatRenderer, Layout, template_of
from torchtune.data._batch import IGNORE_INDEX
from torchtune.data._example import Example
from torchtune.data._notes import Note, quote_excerpt
from torchtune.data._rendering import Rendering
from torchtune.data._template import Message, Span
from torchtune.data._tokenizer import Tokenizer

_logger = logging.getLogger(__name__)

Turns = Literal["all", "last"]
"""The assistant turns to locate."""

_SECOND_QUESTION = "Where are you from?"
"""The second question of the test conversation, which must not be part of the first answer."""


@frozen
class ChatTokens:
    """A conversation's tokens, and the spans that the assistant generates."""

    tokens: list[int]
    answers: list[Span]
    """Token span of each answer, including the token that ends its turn. An answer in several `{% generation %}` blocks
    has several spans."""
    turns: list[int]
    """Message index of each span."""
    notes: tuple[Note, ...] = ()
    """Notes on parts of the conversation that were omitted or changed in the encoding."""


def chat_prompt(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    *,
    continue_final_message: bool = False,
) -> list[int]:
    """Encode a conversation as a prompt for the assistant's next answer, with the tokenizer's chat template.

    Parts that the template does not render are logged as a warning.

    Args:
        tokenizer: The tokenizer, with a chat template.
        messages: The turns, oldest first.
        tools: JSON schemas of the tools that the assistant may call.
        continue_final_message: Treat the last message as the beginning of an answer: the prompt ends with its content,
            and no generation prompt follows.

    Raises:
        ValueError: the tokenizer has no chat template, the template rejects the messages or omits assistant output of
            earlier turns, or the last message cannot be continued.
    """
    renderer = ChatRenderer.build(tokenizer, messages, tools)
    rendering = renderer.rendering(
        renderer.continuation_prompt() if continue_final_message else renderer.prompt(len(messages))
    )
    for note in renderer.notes(rendering):
        _logger.warning("prompts %s; first occurrence: %s", note.text, note.example)
    return rendering.encode()


def chat_tokens(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    *,
    turns: Turns = "all",
) -> ChatTokens:
    """Encode a conversation with the tokenizer's chat template, and locate the assistant's answers in it.

    If the template has `{% generation %}` blocks, answers are the tokens in these blocks. Otherwise an answer begins
    after the generation prompt and ends with the first stop token. The tokens are the tokens of the full text, with two
    exceptions that make training start from the same prompt as generation: a token that spans the boundary between
    prompt and answer is split; and if a template renders the turns before the last answer differently when that answer
    is present (Mistral's template drops the system turn), they are rendered as in the prompt.

    Args:
        tokenizer: The tokenizer, with a chat template.
        messages: The turns, oldest first.
        tools: JSON schemas of the tools that the assistant may call.
        turns: The assistant turns to locate.

    Raises:
        ValueError: the tokenizer has no chat template; the template rejects the messages, renders the prompt
            differently when an answer follows, or omits assistant output; or an answer does not end
            with a stop token.
    """
    renderer = ChatRenderer.build(tokenizer, messages, tools)
    rendered, starts = renderer.render_all()
    rendering = renderer.rendering(rendered)
    if turns == "last":
        starts = starts[-1:]
    if rendered.answers:
        requested = {turn for turn, _ in starts}
        blocks = [
            (turn, block) for turn, block in renderer.layout.blocks(rendered.answers) if turn in requested
        ]
        tokens, boundaries = rendering.encode_at([boundary for _, block in blocks for boundary in block])
        answers = list(zip(boundaries[::2], boundaries[1::2], strict=True))
        chat = ChatTokens(tokens, answers, [turn for turn, _ in blocks])
    else:
        chat = _up_to_stop_tokens(rendering, renderer.layout, starts)
    notes = [*renderer.notes(rendering), *_without_stop_token(tokenizer, chat, len(messages) - 1)]
    return ChatTokens(chat.tokens, chat.answers, chat.turns, tuple(notes))


def _up_to_stop_tokens(rendering: Rendering, layout: Layout, starts: Sequence[tuple[int, int]]) -> ChatTokens:
    """Locate the end of each answer: after its first stop token or, without one, at the end of its message.

    Args:
        rendering: The conversation.
        layout: Positions of its messages.
        starts: The message index of each answer, and the character index at which it begins.
    """
    limits = [layout.next_start(turn) for turn, _ in starts]
    tokens, token_starts = rendering.encode_at([start for _, start in starts])
    ends = rendering.ends(tokens, token_starts, limits)
    if None in ends:
        tokens, boundaries = rendering.encode_at(
            [boundary for turn, start in starts for boundary in (start, layout.end_of(turn))]
        )
        token_starts, message_ends = boundaries[::2], boundaries[1::2]
        stops = rendering.ends(tokens, token_starts, limits)
        ends = [stop or end for stop, end in zip(stops, message_ends, strict=True)]
    answers = [(start, end) for start, end in zip(token_starts, ends, strict=True) if end is not None]
    return ChatTokens(tokens, answers, [turn for turn, _ in starts])


def _without_stop_token(tokenizer: Tokenizer, chat: ChatTokens, last: int) -> list[Note]:
    """Return a note if answers do not end with a stop token.

    Args:
        tokenizer: The tokenizer, which has the stop tokens.
        chat: The answers.
        last: Index of the conversation's last message.

    Raises:
        ValueError: no answer ends with a stop token, or the conversation's last message does not.
    """
    spans = dict(zip(chat.turns, chat.answers, strict=True))  # keeps only the last block of each answer
    without_stop = [
        turn for turn, (start, end) in spans.items() if not tokenizer.stop_ids & set(chat.tokens[start:end])
    ]
    if not without_stop:
        return []
    if len(without_stop) == len(spans) or without_stop[-1] == last:
        start, end = spans[without_stop[-1]]
        raise ValueError(_no_stop_token(tokenizer, chat.tokens[start : end + 2]))
    return [
        Note(
            "have answers before the last one that do not end with a stop token",
            f"messages.{without_stop[0]}",
        )
    ]


def chat_example(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    *,
    train_on_input: bool,
    turns: Turns = "all",
    is_target: Sequence[bool] | None = None,
) -> Example:
    """Encode a conversation as an example; each answer, including the token that ends it, is a target.

    The example ends with the last answer that is a target; later turns are dropped.

    Args:
        tokenizer: The tokenizer, with a chat template.
        messages: The turns, including at least one assistant turn.
        tools: JSON schemas of the tools that the assistant may call.
        train_on_input: Train on all tokens, not only on the answers.
        turns: The answers that are targets.
        is_target: Whether each assistant turn may be a target, in order. None: all may be targets.

    Raises:
        ValueError: as for `chat_tokens`, or there is no assistant turn.
    """
    answering = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if is_target is not None:
        answering = [i for i, trained in zip(answering, is_target, strict=True) if trained]
    if not answering:
        raise ValueError("the conversation has no assistant turn to train on")
    end = answering[-1] + 1
    chat = chat_tokens(tokenizer, messages[:end], tools, turns=turns)
    targets = [span for span, turn in zip(chat.answers, chat.turns, strict=True) if turn in set(answering)]
    notes = [*chat.notes, *_dropped_turns(messages[end:])]
    tokens = chat.tokens[: targets[-1][1]] if targets else chat.tokens
    if train_on_input:
        return Example(tokens, list(tokens), notes=tuple(notes))
    labels = [IGNORE_INDEX] * len(tokens)
    for start, stop in targets:
        labels[start:stop] = tokens[start:stop]
    return Example(tokens, labels, notes=tuple(notes))


def check_chat(tokenizer: Tokenizer) -> None:
    """Check a tokenizer's chat template with a short conversation, before a run relies on it.

    Logs a warning if the template does not render BOS even though the model's plain text begins with it.

    Raises:
        ValueError: there is no template, it renders BOS twice, or an answer does not end with a stop token.
    """
    turns = [
        Message(role=role, content=content)
        for role, content in (
            ("user", "Hello"),
            ("assistant", "Hi"),
            ("user", _SECOND_QUESTION),
            ("assistant", "Bye"),
        )
    ]
    chat = chat_tokens(tokenizer, turns)
    bos_id = tokenizer.special_tokens.get(template_of(tokenizer).bos_token, tokenizer.bos_id)
    if bos_id is not None and chat.tokens[:2] == [bos_id, bos_id]:
        raise ValueError(
            "the chat template begins a conversation with BOS twice, which the model has never seen; remove one"
            " BOS from the template"
        )
    if tokenizer.bos_id is not None and chat.tokens[0] != tokenizer.bos_id:
        _logger.warning(
            "text for this model begins with BOS, but its chat template does not render BOS; if the model was trained"
            " with BOS, put {{ bos_token }} first in the template"
        )
    first = [span for span, turn in zip(chat.answers, chat.turns, strict=True) if turn == 1]
    if set(chat.turns) != {1, 3} or any(
        _SECOND_QUESTION in tokenizer.decode(chat.tokens[slice(*span)]) for span in first
    ):
        raise ValueError(_no_stop_token(tokenizer, chat.tokens[first[0][0] :] if first else []))


def _dropped_turns(messages: Sequence[Message]) -> list[Note]:
    if not messages:
        return []
    content = messages[0].get("content") or ""
    return [
        Note(
            "have turns after the last answer that is trained on, which are dropped",
            f"{messages[0]['role']}: {quote_excerpt(content)}",
        )
    ]


def _no_stop_token(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Return the error message for an answer without a stop token, naming the special token that could be one."""
    names = {i: text for text, i in tokenizer.special_tokens.items()}
    stops = ", ".join(repr(names.get(i, str(i))) for i in sorted(tokenizer.stop_ids))
    next_special = next((names[i] for i in tokens if i in names), None)
    if next_special is None:
        fix = "use a template that ends answers, such as the one in the model's folder"
    else:
        fix = f"{next_special!r} follows the answer: if it ends a turn, set tokenizer.stop_tokens=[{next_special!r}]"
    return (
        f"the chat template does not end answers with a stop token ({stops}), so the model would not learn to stop;"
        f" {fix}"
    )
