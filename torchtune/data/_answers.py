"""Where the answers of a conversation begin in the text that a chat template writes."""

import bisect
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from torchtune.data._conversation import Conversation
from torchtune.data._coverage import Coverage
from torchtune.data._notes import Note, shortened
from torchtune.data._rendering import Rendering
from torchtune.data._special_text import SpecialTokens
from torchtune.data._template import ChatTemplate, Message, Rendered, Span, unused_mark
from torchtune.data._tokenizer import Tokenizer


@define
class ChatRenderer:
    """Writes a conversation out, each of its beginnings once at most."""

    tokenizer: Tokenizer
    conversation: Conversation
    layout: "Layout" = field(init=False)
    """Where the messages are in what `answered` wrote."""
    _openings: dict[str, str] = field(factory=dict)
    """What a prompt has after its last message, by the role of that message."""
    _notes: list[Note] = field(factory=list)

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> "ChatRenderer":
        template = template_of(tokenizer)
        special = SpecialTokens.of(tokenizer)
        if any(special.matches(message["role"]) for message in messages):
            raise ValueError("a role holds the text of a special token")
        return cls(tokenizer, Conversation.trace(template, messages, tools))

    def prompt(self, n: int) -> Rendered:
        """Write the first messages out, and the words that open an answer."""
        return self.conversation.render(n, add_generation_prompt=True)

    def continued(self) -> Rendered:
        """Write all messages out up to the last word of the last one, whose turn then does not end.

        That is where transformers' `continue_final_message` cuts: before the space at the end of the message if the
        template strips it.

        Raises:
            ValueError: the last message has no words, or the template does not write them.
        """
        *before, last = self.conversation.messages
        words: object = last.get("content")
        if not isinstance(words, str) or not words.strip():
            raise ValueError("the last message has no content to continue")
        mark = unused_mark([source.text for source in self.conversation.sources])
        marked: Any = {**last, "content": words + f"{mark} "}
        conversation = self.conversation
        rendered = conversation.template.render(
            [*before, marked], add_generation_prompt=False, tools=conversation.tools
        )
        text = rendered.text
        end = text.rfind(mark)
        if end < 0 or words.strip() not in text:
            raise ValueError(
                "the chat template does not write the last message as it is, so that it cannot be continued"
            )
        if not text.startswith(f"{mark} ", end):
            end = len(text[:end].rstrip())
        return rendered.until(end)

    def rendering(self, rendered: Rendered) -> Rendering:
        """Prepare a text for encoding."""
        return Rendering.of(self.tokenizer, self.conversation, rendered)

    def notes(self, rendering: Rendering) -> tuple[Note, ...]:
        """Tell what of the conversation is not in a text, or not as it was meant.

        Raises:
            ValueError: something that the assistant does is not in it.
        """
        return (*Coverage(self.conversation, rendering.origins).notes(), *rendering.notes, *self._notes)

    def answered(self) -> tuple[Rendered, list[tuple[int, int]]]:
        """Write all messages out.

        Returns:
            The text; and of each turn of the assistant's its number, and where it begins in the text.
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

    def _joined_to_prompt(self, whole: Rendered, last: int, *, is_only: bool) -> tuple[Rendered, int]:
        """Write the last answer after its own prompt, which a template may write otherwise once it is answered."""
        prompt = self.prompt(last)
        if is_only and whole.text.startswith(prompt.text):
            return whole, len(prompt.text)
        before = Layout(self.conversation, prompt)
        opening = prompt.text[before.end_of(last - 1) :]
        self._openings[before.role_of(last - 1)] = opening
        end = len(prompt.text)
        if whole.text.startswith(prompt.text):
            return whole, end
        layout = Layout(self.conversation, whole)
        begin = layout.starts.get(last)
        question_end = layout.end_of(last - 1)
        between = whole.text[question_end:begin]
        if begin is None or not (opening.startswith(between) or self._opens_alike(prompt, last, between)):
            raise ValueError(_rewritten(opening, whole.text[question_end : question_end + len(opening)]))
        if between != opening and opening.startswith(between):
            # The prompt opens a thought, say, and this answer has none.
            end -= len(opening) - len(between)
            self._note_opening(opening[len(between) :], whole.text[begin:])
        shift = end - begin
        of_prompt = [origin for origin in prompt.origins if origin[1] <= end]
        of_answer = [
            (s + shift, e + shift, source, offset) for s, e, source, offset in whole.origins if s >= begin
        ]
        return Rendered(prompt.text[:end] + whole.text[begin:], (*of_prompt, *of_answer)), end

    def _opens_alike(self, prompt: Rendered, last: int, between: str) -> bool:
        """Tell whether what precedes an answer ends with the words that open one, whatever is before these."""
        closed = self.conversation.render(last)
        opens = prompt.text[len(closed.text) :] if prompt.text.startswith(closed.text) else ""
        return bool(opens) and between.endswith(opens)

    def _note_opening(self, missing: str, answer: str) -> None:
        text = (
            f"have an answer that does not begin with {missing!r}, as the chat template begins every answer that is"
            " generated"
        )
        self._notes.append(Note(text, shortened(answer)))

    def _start(self, turn: int) -> int:
        """Find where an answer within a conversation begins."""
        text = self.layout.text
        begin = self.layout.starts.get(turn)
        if turn == 0:
            if begin is None:
                raise ValueError(_rewritten("", text))
            return begin
        before = self.layout.end_of(turn - 1)
        role = self.layout.role_of(turn - 1)
        if role in self._openings:
            opening = self._openings[role]
        else:
            prompt = self.prompt(turn)
            opening = prompt.text[Layout(self.conversation, prompt).end_of(turn - 1) :]
            self._openings[role] = opening
        if text.startswith(opening, before):
            return before + len(opening)
        # The words that open an answer may go on, as with an empty thought, where earlier answers have none.
        if begin is not None and opening.startswith(text[before:begin]):
            self._note_opening(opening[begin - before :], text[begin:])
            return begin
        raise ValueError(_rewritten(opening, text[before : before + len(opening)]))


class Layout:
    """Where the messages stand in a text.

    Args:
        conversation: The messages.
        rendered: The text.
    """

    def __init__(self, conversation: Conversation, rendered: Rendered) -> None:
        self.text = rendered.text
        self._conversation = conversation
        self._ends: dict[int, int] = {}
        self.starts: dict[int, int] = {}
        """Where each message's own words begin, after its role."""
        self._firsts: dict[int, int] = {}
        self._at: list[tuple[int, int, int]] = []
        for start, end, i, _ in rendered.origins:
            source = conversation.sources[i]
            number = source.message
            self._ends[number] = max(end, self._ends.get(number, 0))
            if number >= 0 and conversation.messages[number]["role"] == "assistant":
                self._at.append((start, end, number))
            self._firsts[number] = min(start, self._firsts.get(number, start))
            if source.part != "role":
                self.starts[number] = min(start, self.starts.get(number, start))
        self._at.sort()

    def end_of(self, number: int) -> int:
        """Return where a message's words end, or those of the nearest one before it that has some."""
        while number >= 0 and number not in self._ends:
            number -= 1
        return self._ends.get(number, 0)

    def next_start(self, number: int) -> int:
        """Return where the message after one begins, its role included; the text's end where none does."""
        later = number + 1
        while later < len(self._conversation.messages) and later not in self._firsts:
            later += 1
        return self._firsts.get(later, len(self.text))

    def blocks(self, answers: Sequence[Span]) -> list[tuple[int, Span]]:
        """Return the template's `{% generation %}` blocks, each with the number of its message."""
        return [(self._turn_at(*block), block) for block in answers]

    def role_of(self, number: int) -> str:
        """Return who speaks in a message."""
        return str(self._conversation.messages[number]["role"])

    def _turn_at(self, start: int, end: int) -> int:
        """Return whose a block is: the assistant's message of which it has words, or else the one before it."""
        i = bisect.bisect_left(self._at, (start, start, -1))
        if i < len(self._at) and self._at[i][1] <= end:
            return self._at[i][2]
        return self._at[max(0, i - 1)][2]


def _rewritten(prompt: str, text: str) -> str:
    return (
        "the chat template writes a conversation otherwise once it is answered, so that no prompt can be told from"
        " its answer; put {% generation %} and {% endgeneration %} around the answers in the template; before an"
        f" answer it writes {prompt!r}, and with it {text!r}"
    )


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """Return a tokenizer's chat template.

    Raises:
        ValueError: it has none.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template; name one (tokenizer.chat_template=FILE), or use a plain prompt"
            " (torchtune.datasets.AlpacaDataset)"
        )
    return tokenizer.chat_template
