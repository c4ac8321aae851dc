"""What of a conversation a template wrote, and what it left out."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from attrs import frozen

from torchtune.data._conversation import REASONING, THOUGHT_END, TOOLS, Conversation, Source, without_marks
from torchtune.data._notes import Note, shortened
from torchtune.data._template import ChatTemplate
from torchtune.data._traced import CHANGED, Origin

_LOST = "that the chat template does not write"


@frozen
class _Part:
    """A part of the conversation, and whether it is in the text."""

    source: Source
    kind: str
    """What it is, such as `content`."""
    lost: str
    """What of it is not in the text; empty where all is."""


class Coverage:
    """Tells which parts of a conversation are in a text.

    Args:
        conversation: Its parts.
        origins: Where they stand in the text.
    """

    def __init__(self, conversation: Conversation, origins: Sequence[Origin]) -> None:
        self._conversation = conversation
        self._written: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for start, end, source, offset in origins:
            whole = (0, len(conversation.sources[source].text))
            self._written[source].append(whole if offset == CHANGED else (offset, offset + end - start))

    def notes(self) -> list[Note]:
        """Tell what is lost.

        Raises:
            ValueError: something that the assistant does is lost, and the template writes nothing of its kind elsewhere
                in the conversation, nor this if it were in the last turn.
        """
        if self._is_complete():
            return []
        parts = list(self.parts())
        kept: dict[str, set[int]] = defaultdict(set)
        for part in parts:
            if not part.lost:
                kept[part.kind].add(part.source.message)
        silent = self._silent()
        notes: dict[str, Note] = {}
        for part in parts:
            if not part.lost:
                continue
            role = self._role(part.source)
            if role == "assistant" and _is_an_act(part.kind) and not kept[part.kind] - {part.source.message}:
                if not self._is_written_of_a_last_turn(part):
                    raise ValueError(_lost_act(part, self._conversation.template))
                # The template knows this kind, and leaves it out of earlier turns by design.
                kept[part.kind].add(TOOLS)
            what = _named(part, role)
            if _owner(part.source) in silent and role != "assistant":
                what = f"{role} turns" if role else "tools"
            notes.setdefault(
                what, Note(f"have {what} {_LOST}", f"{part.source.path}: {shortened(part.lost)}")
            )
        return list(notes.values())

    def _is_complete(self) -> bool:
        """Tell whether all sources are in the text from end to end, as they are in most conversations."""
        return all(
            self._written.get(i) == [(0, len(source.text))] or not source.text.strip()
            for i, source in enumerate(self._conversation.sources)
            if source.part != "role"
        )

    def _is_written_of_a_last_turn(self, part: _Part) -> bool:
        """Tell whether the template writes a part if its turn is the last, as a prompt's continuation."""
        n = part.source.message + 1
        if n == len(self._conversation.messages):
            return False
        try:
            rendered = self._conversation.render(n)
        except ValueError:
            return False
        others = Coverage(self._conversation, rendered.origins).parts()
        return any(p.source is part.source and p.kind == part.kind and not p.lost for p in others)

    def _role(self, source: Source) -> str:
        return "" if source.message == TOOLS else str(self._conversation.messages[source.message]["role"])

    def _silent(self) -> set[str]:
        """Return the messages and tools of which nothing is in the text."""
        sources = self._conversation.sources
        return {_owner(source) for source in sources} - {_owner(sources[i]) for i in self._written}

    def parts(self) -> Iterator[_Part]:
        """Yield the parts that say something."""
        calls = {s.message for s in self._conversation.sources if s.part.startswith("tool_calls")}
        values = self._written_values()
        tool_parts: dict[str, list[_Part]] = defaultdict(list)
        for i, source in enumerate(self._conversation.sources):
            if source.part == "role" or not source.text.strip() or (source.is_name and source.path in values):
                continue
            if source.message == TOOLS:
                tool_parts[source.part].append(_Part(source, source.part, self._lost(i, 0, len(source.text))))
            elif source.part == "content":
                yield from self._content(i, source, calls_tools=source.message in calls)
            else:
                yield _Part(source, _kind(source.part), self._lost(i, 0, len(source.text)))
        for of_one in tool_parts.values():
            # A schema may be written in another notation, in which its types and braces are others.
            written = [part for part in of_one if not part.lost]
            yield written[0] if written else of_one[0]

    def _written_values(self) -> set[str]:
        """Return the paths at which, or below which, a value is in the text."""
        paths = set[str]()
        for i in self._written:
            source = self._conversation.sources[i]
            path = "" if source.is_name else source.path
            while path and path not in paths:
                paths.add(path)
                path = path.rpartition(".")[0]
        return paths

    def _content(self, i: int, source: Source, *, calls_tools: bool) -> Iterator[_Part]:
        """Yield what a turn says, and before it what it thinks."""
        text = source.text
        kind = "content beside tool calls" if calls_tools else "content"
        before, mark, after = text.rpartition(THOUGHT_END)
        if mark and without_marks(before):
            yield _Part(source, "reasoning in content", self._lost(i, 0, len(before)))
        if not mark or without_marks(after):
            yield _Part(source, kind, self._lost(i, len(text) - len(after), len(text)))

    def _lost(self, i: int, start: int, end: int) -> str:
        """Return what of a source's characters is not in the text, without marks such as `<think>`."""
        text = self._conversation.sources[i].text
        missing = []
        at = start
        for s, e in sorted(self._written.get(i, ())):
            if s > at:
                missing.append(text[at : min(s, end)])
            at = max(at, e)
        missing.append(text[at:end])
        lost = " ".join(filter(None, map(without_marks, missing)))
        if not lost and i not in self._written:  # a text of nothing but marks
            return text[start:end]
        return lost


def _owner(source: Source) -> str:
    """Name the message or tool that a part belongs to."""
    return ".".join(source.path.split(".")[:2])


def _kind(part: str) -> str:
    return "reasoning" if part in REASONING else part


def _is_an_act(kind: str) -> bool:
    """Tell whether it is what an assistant does, and not what is said about that."""
    if kind.startswith("tool_calls"):
        return not kind.endswith((".id", ".index", ".type"))
    return kind.startswith(("content", "reasoning"))


def _named(part: _Part, role: str) -> str:
    if part.source.message == TOOLS:
        return f"'{part.source.part.partition('.')[2]}' of tools"
    if part.kind.startswith("reasoning"):
        return f"{part.kind} of some {role} turns"
    field = part.kind.replace("[0]", "").replace("[1:]", "")
    return f"{field!r} of {role} turns"


def _lost_act(part: _Part, template: ChatTemplate) -> str:
    """Explain how to keep what the assistant does."""
    lost = f"{part.source.path}: {shortened(part.lost)}"
    if part.kind.startswith("tool_calls"):
        what = "tool calls" if part.kind.startswith("tool_calls[0]") else "more than one tool call in a turn"
        fix = "use a chat template that writes them (tokenizer.chat_template=FILE)"
    elif part.kind.startswith("reasoning"):
        what = "what the assistant thinks before it answers"
        fix = "use a chat template that writes it (tokenizer.chat_template=FILE), or take it out of the rows"
        switches = [name for name in sorted(template.variables) if re.search("think|reason", name)]
        if switches:
            fix = f"try tokenizer.template_arguments, of which the template reads {', '.join(switches)}; or {fix}"
    else:
        what = "the assistant's words" + ("" if part.kind == "content" else " where it also calls tools")
        fix = "use a chat template that writes them (tokenizer.chat_template=FILE), or take them out of the rows"
    return (
        f"the chat template does not write {what}, so that the model would learn to do without; {fix};"
        f" dataset.on_error=skip leaves such rows out; {lost}"
    )
