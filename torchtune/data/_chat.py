"""Conversations to token ids through a chat template.

What people write never turns into special tokens: text such as "<|im_end|>" inside a message is encoded
as the plain text it is, so that no message can end its own turn or open another.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from attrs import evolve, frozen

from torchtune.data._example import IGNORE_INDEX, Example
from torchtune.data._template import ChatTemplate, Message, Rendered, Span, strings_in, unused_mark
from torchtune.data._tokenizer import Tokenizer

_logger = logging.getLogger(__name__)


@frozen
class ChatTokens:
    """A conversation's tokens, and which of them are the assistant's."""

    tokens: list[int]
    answers: list[Span]
    """Where each answer begins and ends among the tokens, the token that ends its turn included."""


_SECOND = "Where are you from?"
"""The second question of a trial, which is no part of the first answer."""

Turns = Literal["all", "last"]
"""Which of the assistant's turns are meant."""


def chat_prompt(
    tokenizer: Tokenizer, messages: list[Message], tools: list[dict[str, Any]] | None = None
) -> list[int]:
    """Encode a conversation up to where the assistant answers, through the tokenizer's chat template.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns, oldest first.
        tools: JSON schemas of the tools that the assistant may call.

    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the messages.
    """
    return _Conversation(tokenizer, messages, tools).written(is_open=True).encode(tokenizer)


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
    first stop id. Tokens are those of the whole text, with two exceptions, since generation starts with what is given
    and training is to do so too: a border that was merged into one token is cut, and where a template writes the
    turns before the last answer otherwise once that is given (Mistral's drops the system's), they are written as
    before.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns, oldest first.
        tools: JSON schemas of the tools that the assistant may call.
        turns: Which of the assistant's turns are looked for.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages or writes a conversation
            otherwise once it goes on, or an answer ends with no stop id.
    """
    conversation = _Conversation(tokenizer, messages, tools)
    written = conversation.written(is_open=False)
    if written.answers:
        borders = [border for answer in written.answers for border in answer]
        tokens, found = written.encode_at(tokenizer, borders)
        answers = list(zip(found[::2], found[1::2], strict=True))
        if not all(tokenizer.stop_ids & set(tokens[start:end]) for start, end in answers):
            raise ValueError(_no_end(tokenizer))
        return ChatTokens(tokens, answers if turns == "all" else answers[-1:])
    asked = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    last = asked.pop() if asked and asked[-1] == len(messages) - 1 > 0 else None
    if turns == "last":
        asked = asked[-1:] if last is None else []
    borders = []
    if last is None:
        borders = [conversation.start_of_answer(i, written.text, is_open=False) for i in asked]
    else:
        before = evolve(conversation, messages=messages[:last])
        prompt = before.written(is_open=True)
        start = conversation.start_of_answer(last, written.text, is_open=False, given=prompt.text)
        written = prompt.then(written, start)
        borders = [before.start_of_answer(i, prompt.text, is_open=True) for i in asked] + [len(prompt.text)]
    tokens, found = written.encode_at(tokenizer, borders)
    regions = pairwise([*found, len(tokens)])
    return ChatTokens(
        tokens, [(start, _end_of_turn(tokenizer, tokens, start, end)) for start, end in regions]
    )


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

    What the template writes after the end of the last answer is left out: nobody reads or predicts it.

    Args:
        tokenizer: Its chat template writes the conversation out.
        messages: The turns; some are the assistant's.
        tools: JSON schemas of the tools that the assistant may call.
        train_on_input: Train on everything, not on the answers alone.
        turns: Which answers are targets.
        learnt: Of each of these, whether it is one after all. None: all are.

    Raises:
        ValueError: as `chat_tokens`; or nobody answers.
    """
    chat = chat_tokens(tokenizer, messages, tools, turns=turns)
    answers = chat.answers
    if learnt is not None:
        if len(learnt) != len(answers):
            raise ValueError(
                f"the chat template marks {len(answers)} answers, the conversation has {len(learnt)}, so that it cannot"
                " be told which are not to be learnt"
            )
        answers = [answer for answer, is_target in zip(answers, learnt, strict=True) if is_target]
    if not answers:
        raise ValueError("no turn of the conversation is the assistant's, so that there is nothing to learn")
    end = answers[-1][1]
    tokens = chat.tokens[:end]
    if train_on_input:
        return Example(tokens, list(tokens))
    labels = [IGNORE_INDEX] * end
    for start, stop in answers:
        labels[start:stop] = tokens[start:stop]
    return Example(tokens, labels)


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
    if len(chat.answers) != 2 or _SECOND in tokenizer.decode(chat.tokens[slice(*chat.answers[0])]):
        raise ValueError(_no_end(tokenizer))


@frozen
class _Conversation:
    """Turns, and how they are written."""

    tokenizer: Tokenizer
    messages: list[Message]
    tools: list[dict[str, Any]] | None

    def render(self, messages: list[Message], *, is_open: bool) -> Rendered:
        """Write some turns out; `is_open` with the words that open an answer."""
        return template_of(self.tokenizer).render_marked(messages, is_open, self.tools)

    def written(self, *, is_open: bool) -> "_Written":
        """Write all turns out, and find where they spell out special tokens."""
        rendered = self.render(self.messages, is_open=is_open)
        special = self.tokenizer.special_tokens
        texts = set(strings_in([self.messages, self.tools or []]))
        risky = {text for text in texts if any(token in text for token in special)}
        if any(message["role"] in risky for message in self.messages):
            raise ValueError("a role holds the text of a special token")
        found = self._find(risky, rendered.text, is_open=is_open) if risky else []
        if found is None:
            raise ValueError(
                "a message holds the text of a special token, and the chat template rewrites messages, so that"
                f" the two cannot be kept apart; take it out of {min(risky)!r}"
            )
        return _Written(rendered.text, found, rendered.answers)

    def start_of_answer(self, turn: int, text: str, *, is_open: bool, given: str | None = None) -> int:
        """Find where in the conversation's text an answer begins.

        Args:
            turn: Which of them is the answer.
            text: What was written.
            is_open: Whether it ends with the words that open a further answer.
            given: What the template writes before the answer, where that is known.
        """
        if given is None:
            given = self.render(self.messages[:turn], is_open=True).text if turn else ""
        if turn and text.startswith(given):
            return len(given)
        # A greeting, or a template that moves something, as Mistral's does with the system's turn: begin with the
        # words themselves, if what stands between them and the question is what generation would see there.
        found = self._find(turn, text, is_open=is_open)
        if found:
            start, words = found[0][0], content_of(self.messages[turn])
            blanks = words[: len(words) - len(words.lstrip())]
            start -= len(blanks) if text[:start].endswith(blanks) else 0
            asked = content_of(self.messages[turn - 1]).strip() if turn else ""
            if text[:start].endswith(given[given.rfind(asked) :] if asked else given):
                return start
        raise ValueError(
            "the chat template writes a conversation otherwise once it is answered, so that no prompt can be told from"
            " its answer; put {% generation %} and {% endgeneration %} around the answers in the template, or train on"
            f" other turns; before the answer it wrote {given!r}, with it {text!r}"
        )

    def _find(self, which: set[str] | int, text: str, *, is_open: bool) -> list[Span] | None:
        """Find where some texts stand in what was written of all; None: they are rewritten.

        Each is replaced by a mark, between the blanks around it, which templates are fond of trimming.

        Args:
            which: Texts in messages and tools; or the number of a turn, whose content is meant.
            text: What was written.
            is_open: Whether it ends with the words that open an answer.
        """
        mark = unused_mark([text, *strings_in([self.messages, self.tools or []])])
        cores: list[str] = []

        def marked(words: str) -> str:
            core = words.strip()
            if not core:
                return words
            cores.append(core)
            return words.replace(core, f"{mark}{len(cores) - 1}{mark}")

        if isinstance(which, int):
            turns = list(self.messages)
            turns[which] = Message(**{**turns[which], "content": marked(content_of(turns[which]))})
            conversation = evolve(self, messages=turns)
        else:
            replaced: Any = _replaced([self.messages, self.tools], lambda t: marked(t) if t in which else t)
            conversation = evolve(self, messages=replaced[0], tools=replaced[1])
        pieces = conversation.render(conversation.messages, is_open=is_open).text.split(mark)
        at, found = 0, []
        for i, piece in enumerate(pieces):
            forms = (
                (cores[int(piece)], json.dumps(cores[int(piece)], ensure_ascii=False)[1:-1])
                if i % 2
                else (piece,)
            )
            form = next((form for form in forms if text.startswith(form, at)), None)
            if form is None:
                return None
            found += [(at, at + len(form))] if i % 2 else []
            at += len(form)
        return found if at == len(text) else None


@frozen
class _Written:
    """A conversation as a template wrote it."""

    text: str
    plain: Sequence[Span] = ()
    """Where it spells out special tokens that are none."""
    answers: Sequence[Span] = ()
    """The template's `{% generation %}` blocks."""

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

    def _rest(self, tokenizer: Tokenizer, start: int, end: int | None = None) -> list[int]:
        """Encode what stands behind a border, as part of a text that goes on."""
        if start == 0:
            return self.encode(tokenizer, 0, end)
        # SentencePiece would put a space before it, but not behind a line break.
        after_break = evolve(self, text=f"{self.text[: start - 1]}\n{self.text[start:]}")
        lead, whole = tokenizer.encode_template("\n"), after_break.encode(tokenizer, start - 1, end)
        return whole[len(lead) :] if whole[: len(lead)] == lead else self.encode(tokenizer, start, end)

    def encode_at(self, tokenizer: Tokenizer, borders: Sequence[int]) -> tuple[list[int], list[int]]:
        """Encode it, and find where borders between characters lie between tokens.

        A border within a token cuts it: what comes after is encoded by itself.
        """
        tokens = self.encode(tokenizer)
        cut, kept = 0, 0  # the last border that cut a token, and what came before it
        found: list[int] = []
        for border in borders:
            before = [*tokens[:kept], *self._rest(tokenizer, cut, border)]
            if tokens[: len(before)] != before:
                cut, kept = border, len(before)
                tokens = [*before, *self._rest(tokenizer, cut)]
            found.append(len(before))
        return tokens, found


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


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """Return a tokenizer's chat template.

    Raises:
        ValueError: it has none.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template; use a plain prompt (torchtune.datasets.AlpacaDataset), or a"
            " tokenizer folder whose tokenizer_config.json holds one"
        )
    return tokenizer.chat_template


def content_of(message: Message) -> str:
    """Return what a turn says; nothing, where it only calls a tool."""
    return message.get("content") or ""


def _replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Change every text in messages and tools, but for the names of fields and of those who speak."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: item if key == "role" else _replaced(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(item, change) for item in value]
    return value
