"""Locate the assistant's answers in the text that a chat template renders."""

import bisect
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from torchtune.data._conversation import Conversation
from torchtune.data._coverage import Coverage
from torchtune.data._notes import Note, quote_excerpt
from torchtune.data._rendering import Rendering
from torchtune.data._special_text import SpecialTokens
from torchtune.data._template import ChatTemplate, Message, Rendered, Span, unused_character
from torchtune.data._tokenizer import Tokenizer


@define
class ChatRenderer:
    """Renders a conversation and its prefixes, each at most once."""

    tokenizer: Tokenizer
    conversation: Conversation
    layout: "Layout" = field(init=False)
    """Positions of the messages in the text that `render_all` returned."""
    _openings: dict[str, str] = field(factory=dict)
    """The text of a prompt after its last message (the generation prompt), by the role of that message."""
    _notes: list[Note] = field(factory=list)

    @classmethod
    def build(
        cls, tokenizer: Tokenizer, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> "ChatRenderer":
        template = template_of(tokenizer)
        special = SpecialTokens.for_tokenizer(tokenizer)
        if any(special.matches(message["role"]) for message in messages):
            raise ValueError("the role of a message contains a special token")
        return cls(tokenizer, Conversation.trace(template, messages, tools))

    def prompt(self, n: int) -> Rendered:
        """Render the first n messages and the generation prompt."""
        return self.conversation.render(n, add_generation_prompt=True)

    def continuation_prompt(self) -> Rendered:
        """Render all messages up to the end of the last message's content, leaving the last turn open.

        The text ends where transformers' `continue_final_message` cuts it: before the message's trailing space if the
        template strips it.

        Raises:
            ValueError: the last message has no content, or the template does not render it unchanged.
        """
        *previous, last = self.conversation.messages
        content: object = last.get("content")
        if not isinstance(content, str) or not content.strip():
            raise ValueError("the last message has no content to continue")
        mark = unused_character([source.text for source in self.conversation.sources])
        marked: Any = {**last, "content": content + f"{mark} "}
        conversation = self.conversation
        rendered = conversation.template.render(
            [*previous, marked], add_generation_prompt=False, tools=conversation.tools
        )
        text = rendered.text
        end = text.rfind(mark)
        if end < 0 or content.strip() not in text:
            raise ValueError(
                "the chat template does not render the last message unchanged, so it cannot be continued"
            )
        if not text.startswith(f"{mark} ", end):
            end = len(text[:end].rstrip())
        return rendered.prefix(end)

    def rendering(self, rendered: Rendered) -> Rendering:
        """Prepare a rendered text for encoding."""
        return Rendering.build(self.tokenizer, self.conversation, rendered)

    def notes(self, rendering: Rendering) -> tuple[Note, ...]:
        """Return notes on parts of the conversation that the text omits or changes.

        Raises:
            ValueError: part of the assistant's output is missing.
        """
        return (*Coverage(self.conversation, rendering.origins).notes(), *rendering.notes, *self._notes)

    def render_all(self) -> tuple[Rendered, list[tuple[int, int]]]:
        """Render all messages, and locate the start of each answer.

        Returns:
            The text; and for each assistant turn, its message index and the character index at which its answer begins.
        """
        messages = self.conversation.messages
        rendered = self.conversation.render(len(messages))
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        starts: list[tuple[int, int]] = []
        last = len(messages) - 1
        if turns and turns[-1] == last > 0 and not rendered.answers:
            turns.pop()
            rendered, start = self._joined_to_prompt(rendered, last, is_only=not turns)
            starts = [(last, start)]
        self.layout = Layout(self.conversation, rendered)
        if rendered.answers:
            return rendered, [(turn, 0) for turn in turns]
        return rendered, [*((turn, self._start(turn)) for turn in turns), *starts]

    def _joined_to_prompt(self, full: Rendered, last: int, *, is_only: bool) -> tuple[Rendered, int]:
        """Append the last answer to its prompt, which a template may render differently when an answer follows."""
        prompt = self.prompt(last)
        if is_only and full.text.startswith(prompt.text):
            return full, len(prompt.text)
        prompt_layout = Layout(self.conversation, prompt)
        opening = prompt.text[prompt_layout.end_of(last - 1) :]
        self._openings[prompt_layout.role_of(last - 1)] = opening
        end = len(prompt.text)
        if full.text.startswith(prompt.text):
            return full, end
        layout = Layout(self.conversation, full)
        begin = layout.starts.get(last)
        question_end = layout.end_of(last - 1)
        separator = full.text[question_end:begin]
        if begin is None or not (
            opening.startswith(separator) or self._ends_with_opening(prompt, last, separator)
        ):
            raise ValueError(_prompt_mismatch(opening, full.text[question_end : question_end + len(opening)]))
        if separator != opening and opening.startswith(separator):
            # For example, the prompt opens a reasoning block, but this answer has no reasoning.
            end -= len(opening) - len(separator)
            self._note_opening(opening[len(separator) :], full.text[begin:])
        shift = end - begin
        prompt_origins = [origin for origin in prompt.origins if origin[1] <= end]
        answer_origins = [
            (s + shift, e + shift, source, offset) for s, e, source, offset in full.origins if s >= begin
        ]
        return Rendered(prompt.text[:end] + full.text[begin:], (*prompt_origins, *answer_origins)), end

    def _ends_with_opening(self, prompt: Rendered, last: int, separator: str) -> bool:
        """Return whether the text before an answer ends with the generation prompt."""
        closed = self.conversation.render(last)
        opening = prompt.text[len(closed.text) :] if prompt.text.startswith(closed.text) else ""
        return bool(opening) and separator.endswith(opening)

    def _note_opening(self, missing: str, answer: str) -> None:
        text = (
            f"have an answer without {missing!r}, which the chat template puts before every generated answer"
        )
        self._notes.append(Note(text, quote_excerpt(answer)))

    def _start(self, turn: int) -> int:
        """Return the character index at which the answer of a turn begins."""
        text = self.layout.text
        begin = self.layout.starts.get(turn)
        if turn == 0:
            if begin is None:
                raise ValueError(_prompt_mismatch("", text))
            return begin
        previous_end = self.layout.end_of(turn - 1)
        role = self.layout.role_of(turn - 1)
        if role in self._openings:
            opening = self._openings[role]
        else:
            prompt = self.prompt(turn)
            opening = prompt.text[Layout(self.conversation, prompt).end_of(turn - 1) :]
            self._openings[role] = opening
        if text.startswith(opening, previous_end):
            return previous_end + len(opening)
        # The generation prompt may be longer than the text before earlier answers, for example if it opens a reasoning
        # block.
        if begin is not None and opening.startswith(text[previous_end:begin]):
            self._note_opening(opening[begin - previous_end :], text[begin:])
            return begin
        raise ValueError(_prompt_mismatch(opening, text[previous_end : previous_end + len(opening)]))


class Layout:
    """Positions of messages in a rendered text.

    Args:
        conversation: The messages.
        rendered: The text.
    """

    def __init__(self, conversation: Conversation, rendered: Rendered) -> None:
        self.text = rendered.text
        self._conversation = conversation
        self._ends: dict[int, int] = {}
        self.starts: dict[int, int] = {}
        """The character index at which each message begins, excluding its role."""
        self._starts_with_role: dict[int, int] = {}
        self._assistant_spans: list[tuple[int, int, int]] = []
        for start, end, i, _ in rendered.origins:
            source = conversation.sources[i]
            index = source.message
            self._ends[index] = max(end, self._ends.get(index, 0))
            if index >= 0 and conversation.messages[index]["role"] == "assistant":
                self._assistant_spans.append((start, end, index))
            self._starts_with_role[index] = min(start, self._starts_with_role.get(index, start))
            if source.part != "role":
                self.starts[index] = min(start, self.starts.get(index, start))
        self._assistant_spans.sort()

    def end_of(self, index: int) -> int:
        """Return the character index at which a message ends, or the nearest earlier message that has text."""
        while index >= 0 and index not in self._ends:
            index -= 1
        return self._ends.get(index, 0)

    def next_start(self, index: int) -> int:
        """Return the character index at which the next message begins, including its role, or the text's length."""
        following = index + 1
        while following < len(self._conversation.messages) and following not in self._starts_with_role:
            following += 1
        return self._starts_with_role.get(following, len(self.text))

    def blocks(self, answers: Sequence[Span]) -> list[tuple[int, Span]]:
        """Return the template's `{% generation %}` blocks, each with the index of its message."""
        return [(self._turn_at(*block), block) for block in answers]

    def role_of(self, index: int) -> str:
        """Return the role of a message."""
        return str(self._conversation.messages[index]["role"])

    def _turn_at(self, start: int, end: int) -> int:
        """Return the assistant message whose text a block contains, or the nearest message before the block."""
        i = bisect.bisect_left(self._assistant_spans, (start, start, -1))
        if i < len(self._assistant_spans) and self._assistant_spans[i][1] <= end:
            return self._assistant_spans[i][2]
        return self._assistant_spans[max(0, i - 1)][2]


def _prompt_mismatch(prompt: str, text: str) -> str:
    """Return the error message for a prompt that is rendered differently when an answer follows."""
    return (
        "the chat template renders the prompt differently when an answer follows, so the answer's tokens cannot be"
        " located; put {% generation %} and {% endgeneration %} around answers in the template; it renders"
        f" {prompt!r} without an answer, and {text!r} with the answer"
    )


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """Return a tokenizer's chat template.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template; set tokenizer.chat_template=FILE, or use a plain prompt"
            " (torchtune.datasets.AlpacaDataset)"
        )
    return tokenizer.chat_template
