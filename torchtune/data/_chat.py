"""Conversations to token ids through a chat template.

What people write never turns into special tokens, except those that the tokenizer allows there: other text such as
"<|im_end|>" inside a message is encoded as the plain text it is, so that no message can end its own turn or open
another.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from attrs import frozen

from torchtune.data._answers import ChatRenderer, Layout, template_of
from torchtune.data._batch import IGNORE_INDEX
from torchtune.data._example import Example
from torchtune.data._notes import Note, shortened
from torchtune.data._rendering import Rendering
from torchtune.data._template import Message, Span
from torchtune.data._tokenizer import Tokenizer

_logger = logging.getLogger(__name__)

Turns = Literal["all", "last"]
"""Which of the assistant's turns are meant."""

_SECOND = "Where are you from?"
"""The second question of a trial, which is no part of the first answer."""


@frozen
class ChatTokens:
    """A conversation's tokens, and which of them are the assistant's."""

    tokens: list[int]
    answers: list[Span]
    """Where each answer begins and ends among the tokens, the token that ends its turn included. One that the template
    writes in several `{% generation %}` blocks has several."""
    turns: list[int]
    """Of each of these, the number of its message."""
    notes: tuple[Note, ...] = ()
    """What of the conversation is not in the tokens, or not as it was meant."""


def chat_prompt(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    *,
    continue_final_message: bool = False,
) -> list[int]:
    """Encode a conversation up to where the assistant answers, through the tokenizer's chat template.

    What the template leaves out of it is logged as a warning.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns, oldest first.
        tools: JSON schemas of the tools that the assistant may call.
        continue_final_message: The last message is the beginning of an answer: the text ends with its words, and no
            words that open an answer follow.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages, or leaves out what the
            assistant did before; or the last message cannot be continued.
    """
    renderer = ChatRenderer.of(tokenizer, messages, tools)
    rendering = renderer.rendering(
        renderer.continued() if continue_final_message else renderer.prompt(len(messages))
    )
    for note in renderer.notes(rendering):
        _logger.warning("prompts %s; the first: %s", note.text, note.example)
    return rendering.encode()


def chat_tokens(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    *,
    turns: Turns = "all",
) -> ChatTokens:
    """Encode a whole conversation through the tokenizer's chat template, and find what the assistant says in it.

    The assistant's are the tokens in the template's `{% generation %}` blocks, where it has any. Otherwise an answer
    begins where the template ends what comes before it, the words that open an answer included, and ends with the
    first stop id. Tokens are those of the whole text, with two exceptions, since generation starts from the prompt and
    training is to do so too: a token across the border of prompt and answer is cut there, and where a template writes
    the turns before the last answer otherwise once that is given (Mistral's drops the system's), they are written as
    before.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns, oldest first.
        tools: JSON schemas of the tools that the assistant may call.
        turns: Which of the assistant's turns are looked for.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages, writes a conversation
            otherwise once it is answered or leaves out what the assistant does, or an answer ends with no stop id.
    """
    renderer = ChatRenderer.of(tokenizer, messages, tools)
    rendered, starts = renderer.answered()
    rendering = renderer.rendering(rendered)
    if turns == "last":
        starts = starts[-1:]
    if rendered.answers:
        asked = {turn for turn, _ in starts}
        blocks = [(turn, block) for turn, block in renderer.layout.blocks(rendered.answers) if turn in asked]
        tokens, borders = rendering.encode_at([border for _, block in blocks for border in block])
        answers = list(zip(borders[::2], borders[1::2], strict=True))
        chat = ChatTokens(tokens, answers, [turn for turn, _ in blocks])
    else:
        chat = _up_to_stop_tokens(rendering, renderer.layout, starts)
    notes = [*renderer.notes(rendering), *_unended(tokenizer, chat, len(messages) - 1)]
    return ChatTokens(chat.tokens, chat.answers, chat.turns, tuple(notes))


def _up_to_stop_tokens(rendering: Rendering, layout: Layout, starts: Sequence[tuple[int, int]]) -> ChatTokens:
    """Find where each answer ends: after its first stop id, or else with its words.

    Args:
        rendering: The conversation.
        layout: Where its messages are.
        starts: Of each answer the number of its message, and where it begins (characters).
    """
    limits = [layout.next_start(turn) for turn, _ in starts]
    tokens, begins = rendering.encode_at([start for _, start in starts])
    ends = rendering.ends(tokens, begins, limits)
    if None in ends:
        tokens, both = rendering.encode_at(
            [at for turn, start in starts for at in (start, layout.end_of(turn))]
        )
        begins, words_end = both[::2], both[1::2]
        stops = rendering.ends(tokens, begins, limits)
        ends = [stop or end for stop, end in zip(stops, words_end, strict=True)]
    answers = [(begin, end) for begin, end in zip(begins, ends, strict=True) if end is not None]
    return ChatTokens(tokens, answers, [turn for turn, _ in starts])


def _unended(tokenizer: Tokenizer, chat: ChatTokens, last: int) -> list[Note]:
    """Tell which answers end with no stop id.

    Args:
        tokenizer: Knows the stop ids.
        chat: The answers.
        last: The number of the conversation's last message.

    Raises:
        ValueError: no answer ends with one, or the conversation's last message does not.
    """
    spans = dict(zip(chat.turns, chat.answers, strict=True))  # the last of several blocks
    unended = [
        turn for turn, (start, end) in spans.items() if not tokenizer.stop_ids & set(chat.tokens[start:end])
    ]
    if not unended:
        return []
    if len(unended) == len(spans) or unended[-1] == last:
        start, end = spans[unended[-1]]
        raise ValueError(_no_end(tokenizer, chat.tokens[start : end + 2]))
    return [Note("have answers before the last that no stop token ends", f"messages.{unended[0]}")]


def chat_example(
    tokenizer: Tokenizer,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    *,
    train_on_input: bool,
    turns: Turns = "all",
    learnt: Sequence[bool] | None = None,
) -> Example:
    """Encode a conversation whose answers are to be learnt, each with the token that ends it.

    The conversation ends with the last answer that is learnt: nobody reads or predicts what comes after it.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns; some are the assistant's.
        tools: JSON schemas of the tools that the assistant may call.
        train_on_input: Train on everything, not on the answers alone.
        turns: Which answers are targets.
        learnt: Of each of the assistant's turns, whether it is one after all. None: all are.

    Raises:
        ValueError: as `chat_tokens`; or nobody answers.
    """
    answering = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if learnt is not None:
        answering = [i for i, is_target in zip(answering, learnt, strict=True) if is_target]
    if not answering:
        raise ValueError("no turn of the conversation is the assistant's, so that there is nothing to learn")
    end = answering[-1] + 1
    chat = chat_tokens(tokenizer, messages[:end], tools, turns=turns)
    targets = [span for span, turn in zip(chat.answers, chat.turns, strict=True) if turn in set(answering)]
    notes = [*chat.notes, *_left_out(messages[end:])]
    tokens = chat.tokens[: targets[-1][1]] if targets else chat.tokens
    if train_on_input:
        return Example(tokens, list(tokens), notes=tuple(notes))
    labels = [IGNORE_INDEX] * len(tokens)
    for start, stop in targets:
        labels[start:stop] = tokens[start:stop]
    return Example(tokens, labels, notes=tuple(notes))


def check_chat(tokenizer: Tokenizer) -> None:
    """Try a tokenizer's chat template on a short conversation, before a run relies on it.

    Where texts of this model begin with BOS, but its template writes none, that is logged as a warning.

    Raises:
        ValueError: there is no template, it writes BOS twice, or an answer ends with no stop id.
    """
    turns = [
        Message(role=role, content=content)
        for role, content in (("user", "Hello"), ("assistant", "Hi"), ("user", _SECOND), ("assistant", "Bye"))
    ]
    chat = chat_tokens(tokenizer, turns)
    bos_id = tokenizer.special_tokens.get(template_of(tokenizer).bos_token, tokenizer.bos_id)
    if bos_id is not None and chat.tokens[:2] == [bos_id, bos_id]:
        raise ValueError(
            "the chat template begins a conversation with BOS twice, which the model never saw; take one out of it"
        )
    if tokenizer.bos_id is not None and chat.tokens[0] != tokenizer.bos_id:
        _logger.warning(
            "this model's texts begin with BOS, but its chat template writes none; if that is not as the model was"
            " taught, put {{ bos_token }} first in the template"
        )
    first = [span for span, turn in zip(chat.answers, chat.turns, strict=True) if turn == 1]
    if set(chat.turns) != {1, 3} or any(
        _SECOND in tokenizer.decode(chat.tokens[slice(*span)]) for span in first
    ):
        raise ValueError(_no_end(tokenizer, chat.tokens[first[0][0] :] if first else []))


def _left_out(messages: Sequence[Message]) -> list[Note]:
    if not messages:
        return []
    said = messages[0].get("content") or ""
    return [
        Note(
            "have turns after the last answer that is learnt, which are left out",
            f"{messages[0]['role']}: {shortened(said)}",
        )
    ]


def _no_end(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Say that an answer never ends, and which special token could end it."""
    names = {i: text for text, i in tokenizer.special_tokens.items()}
    stops = ", ".join(repr(names.get(i, str(i))) for i in sorted(tokenizer.stop_ids))
    after = next((names[i] for i in tokens if i in names), None)
    if after is None:
        fix = "use a template that ends answers, such as that of the model's own folder"
    else:
        fix = f"{after!r} comes after it: if that ends a turn, set tokenizer.stop_tokens=[{after!r}]"
    return (
        f"the chat template ends an answer with none of the stop tokens ({stops}), so that the model would never learn"
        f" to stop; {fix}"
    )
