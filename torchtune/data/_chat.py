"""Conversations to token ids through a chat template.

What people write never turns into special tokens: text such as "<|im_end|>" inside a message is encoded
as the plain text it is, so that no message can end its own turn or open another.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from attrs import frozen

from torchtune.data._example import IGNORE_INDEX, Example
from torchtune.data._template import ChatTemplate, Message
from torchtune.data._tokenizer import Tokenizer

_logger = logging.getLogger(__name__)

Span = tuple[int, int]
"""Where something begins and ends."""


@frozen
class ChatTokens:
    """A conversation's tokens, and which of them are the assistant's."""

    tokens: list[int]
    answers: list[Span]
    """Where each answer begins and ends among the tokens, the token that ends its turn included."""


def chat_prompt(tokenizer: Tokenizer, messages: list[Message]) -> list[int]:
    """Encode a conversation up to where the assistant answers, through the tokenizer's chat template.

    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the messages.
    """
    return _Written.of(tokenizer, messages, add_generation_prompt=True).encode(tokenizer)


def chat_tokens(tokenizer: Tokenizer, messages: list[Message]) -> ChatTokens:
    """Encode a whole conversation through the tokenizer's chat template, and find what the assistant says in it.

    The assistant's are the tokens in the template's `{% generation %}` blocks, where it has any. Otherwise an answer
    begins where the template ends what comes before it, the words that open an answer included, and ends with the
    first stop id. Tokens are those of the whole text, with two exceptions, since generation starts with what is given
    and training is to do so too: a border that was merged into one token is cut, and where a template writes the
    turns before the last answer otherwise once that is given (Mistral's drops the system's), they are written as
    before.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages or writes a conversation
            otherwise once it goes on, or an answer ends with no stop id.
    """
    written = _Written.of(tokenizer, messages, add_generation_prompt=False)
    if written.answers:
        borders = [border for answer in written.answers for border in answer]
        tokens, found = written.encode_at(tokenizer, borders)
        return ChatTokens(tokens, list(zip(found[::2], found[1::2], strict=True)))
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    borders = []
    if turns[-1:] == [len(messages) - 1] and turns[-1]:
        last = turns.pop()
        prompt = _Written.of(tokenizer, messages[:last], add_generation_prompt=True)
        written = prompt.then(
            written, _start_of_answer(tokenizer, messages, last, written.text, given=prompt.text)
        )
        borders = [len(prompt.text)]
        earlier = [_start_of_answer(tokenizer, messages[:last], i, prompt.text, is_open=True) for i in turns]
    else:
        earlier = [_start_of_answer(tokenizer, messages, i, written.text) for i in turns]
    tokens, found = written.encode_at(tokenizer, earlier + borders)
    regions = pairwise([*found, len(tokens)])
    return ChatTokens(
        tokens, [(start, _end_of_turn(tokenizer, tokens, start, end)) for start, end in regions]
    )


def chat_example(
    tokenizer: Tokenizer,
    messages: list[Message],
    *,
    train_on_input: bool,
    turns: Literal["all", "last"] = "all",
) -> Example:
    """Encode a conversation whose answers are to be learnt, each with the token that ends it.

    What the template writes after the end of the last answer is left out: nobody reads or predicts it.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns; some are the assistant's.
        train_on_input: Train on everything, not on the answers alone.
        turns: Which answers are targets.

    Raises:
        ValueError: as `chat_tokens`; or nobody answers.
    """
    chat = chat_tokens(tokenizer, messages)
    if not chat.answers:
        raise ValueError("no turn of the conversation is the assistant's, so that there is nothing to learn")
    end = chat.answers[-1][1]
    tokens = chat.tokens[:end]
    if train_on_input:
        return Example(tokens, list(tokens))
    labels = [IGNORE_INDEX] * end
    for start, stop in chat.answers if turns == "all" else chat.answers[-1:]:
        labels[start:stop] = tokens[start:stop]
    return Example(tokens, labels)


def check_chat(tokenizer: Tokenizer) -> None:
    """Try a tokenizer's chat template on a short conversation, before a run relies on it.

    Where texts of this model begin with BOS, but its template writes none, that is logged as a warning.

    Raises:
        ValueError: there is no template, it writes BOS twice, or an answer ends with no stop id.
    """
    question, answer = Message(role="user", content="Hello"), Message(role="assistant", content="Hi")
    chat = chat_tokens(tokenizer, [question, answer])
    bos_id = tokenizer.special_tokens.get(_template(tokenizer).bos_token, tokenizer.bos_id)
    if bos_id is not None and chat.tokens[:2] == [bos_id, bos_id]:
        raise ValueError(
            "the chat template begins a conversation with BOS twice, which the model never saw; take one out of it"
        )
    if tokenizer.bos_id is not None and chat.tokens[0] != tokenizer.bos_id:
        _logger.warning(
            "this model's texts begin with BOS, but its chat template writes none; if that is not as the model was"
            " taught, put {{ bos_token }} first in the template"
        )
    if not {*chat.tokens[slice(*chat.answers[-1])]} & tokenizer.stop_ids:
        raise ValueError(_no_end(tokenizer))


@frozen
class _Written:
    """A conversation as a template wrote it."""

    text: str
    plain: Sequence[Span] = ()
    """Where it spells out special tokens that are none."""
    answers: Sequence[Span] = ()
    """The template's `{% generation %}` blocks."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, messages: list[Message], *, add_generation_prompt: bool) -> "_Written":
        template = _template(tokenizer)
        written = template.render_marked(messages, add_generation_prompt)
        risky = [
            i
            for i, m in enumerate(messages)
            if any(token in m["content"] for token in tokenizer.special_tokens)
        ]
        found = _find(template, messages, risky, add_generation_prompt, written.text) if risky else []
        if found is None:
            raise ValueError(
                "a message holds the text of a special token, and the chat template rewrites messages, so that"
                f" the two cannot be kept apart; take it out of {messages[risky[0]]['content']!r}"
            )
        return cls(written.text, found, written.answers)

    def then(self, other: "_Written", start: int) -> "_Written":
        """Go on with what stands in another from `start`."""
        if other.text.startswith(self.text) and start == len(self.text):
            return other
        shift = len(self.text) - start
        after = [(max(s, start) + shift, e + shift) for s, e in other.plain if e > start]
        return _Written(self.text + other.text[start:], [*self.plain, *after])

    def encode(self, tokenizer: Tokenizer, start: int = 0, end: int | None = None) -> list[int]:
        """Encode a part of it."""
        end = len(self.text) if end is None else end
        plain = [(max(s, start) - start, min(e, end) - start) for s, e in self.plain if s < end and start < e]
        return tokenizer.encode_template(self.text[start:end], plain)

    def encode_at(self, tokenizer: Tokenizer, borders: Sequence[int]) -> tuple[list[int], list[int]]:
        """Encode it, and find where borders between characters lie between tokens.

        A border within a token cuts it: what comes after is encoded by itself.
        """
        tokens = self.encode(tokenizer)
        cut, kept = 0, 0  # the last border that cut a token, and what came before it
        found: list[int] = []
        for border in borders:
            before = [*tokens[:kept], *self.encode(tokenizer, cut, border)]
            if tokens[: len(before)] != before:
                cut, kept = border, len(before)
                tokens = [*before, *self.encode(tokenizer, cut)]
            found.append(len(before))
        return tokens, found


def _start_of_answer(
    tokenizer: Tokenizer,
    messages: list[Message],
    turn: int,
    text: str,
    *,
    is_open: bool = False,
    given: str | None = None,
) -> int:
    """Find where in a conversation's text an answer begins.

    Args:
        tokenizer: Its template wrote the text.
        messages: The whole conversation.
        turn: Which of them is the answer.
        text: What was written.
        is_open: Whether it ends with the words that open a further answer.
        given: What the template writes before the answer, where that is known.
    """
    template = _template(tokenizer)
    if given is None:
        given = template.render(messages[:turn], add_generation_prompt=True) if turn else ""
    if turn and text.startswith(given):
        return len(given)
    # A greeting, or a template that moves something, as Mistral's does with the system's turn: begin with the words
    # themselves, if what stands between them and the question is what generation would see there.
    found = _find(template, messages, [turn], is_open, text)
    asked = messages[turn - 1]["content"].strip() if turn else ""
    if found and text[: found[0][0]].endswith(given[given.rfind(asked) :] if asked else given):
        return found[0][0]
    raise ValueError(
        "the chat template writes a conversation otherwise once it is answered, so that no prompt can be told from"
        " its answer; put {% generation %} and {% endgeneration %} around the answers in the template, or train on"
        f" other turns; before the answer it wrote {given!r}, with it {text!r}"
    )


def _end_of_turn(tokenizer: Tokenizer, tokens: list[int], start: int, end: int) -> int:
    """Find where an answer is over: behind its first stop id."""
    for i in range(start, end):
        if tokens[i] in tokenizer.stop_ids:
            return i + 1
    raise ValueError(_no_end(tokenizer))


def _no_end(tokenizer: Tokenizer) -> str:
    return (
        f"the chat template ends an answer with none of the stop ids {sorted(tokenizer.stop_ids)}, so that the model"
        " would never learn to stop; use the tokenizer and the template of one model"
    )


def _template(tokenizer: Tokenizer) -> ChatTemplate:
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template; use a plain prompt (torchtune.datasets.AlpacaDataset), or a"
            " tokenizer folder whose tokenizer_config.json holds one"
        )
    return tokenizer.chat_template


def _find(
    template: ChatTemplate, messages: list[Message], which: list[int], add_generation_prompt: bool, text: str
) -> list[Span] | None:
    """Find where the contents of some messages stand in the text that a template made of all; None: it rewrites them.

    Each is replaced by a mark, between the blanks around it, which templates are fond of trimming.
    """
    cores = {i: messages[i]["content"].strip() for i in which}
    marked = [
        Message(
            role=m["role"], content=m["content"].replace(cores[i], _mark(i)) if cores.get(i) else m["content"]
        )
        for i, m in enumerate(messages)
    ]
    found, at, before, rest = [], 0, "", template.render(marked, add_generation_prompt)
    for i, core in cores.items():
        before, mark, rest = rest.partition(_mark(i))
        start = at + len(before)
        at = start + len(core)
        if not mark or text[at - len(core) - len(before) : at] != before + core:
            return None
        found.append((start, at))
    return found if text[at:] == rest else None


def _mark(i: int) -> str:
    """Stand in for a message's text. Characters of the private use area occur in no template."""
    return f"\ue000{i}\uf8ff"
