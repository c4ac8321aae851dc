"""Find the parts of a conversation that a chat template does not render."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from attrs import frozen

from torchtune.data._conversation import REASONING, REASONING_END, TOOLS, Conversation, Source, without_tags
from torchtune.data._notes import Note, quote_excerpt
from torchtune.data._template import ChatTemplate
from torchtune.data._traced import CHANGED, Origin


@frozen
class _Part:
    """A part of the conversation, and its characters that are missing from the text."""

    source: Source
    kind: str
    """The kind of part, such as `content`."""
    missing: str
    """The characters that are not in the text; empty if none are missing."""


class Coverage:
    """The parts of a conversation that are in a rendered text.

    Args:
        conversation: The conversation.
        origins: Positions of its parts in the text.
    """

    def __init__(self, conversation: Conversation, origins: Sequence[Origin]) -> None:
        self._conversation = conversation
        self._rendered_spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for start, end, source, offset in origins:
            full = (0, len(conversation.sources[source].text))
            self._rendered_spans[source].append(full if offset == CHANGED else (offset, offset + end - start))

    def notes(self) -> list[Note]:
        """Return notes on the parts that are missing from the text.

        Raises:
            ValueError: part of the assistant's output is missing, and the template renders neither the same kind of
                part elsewhere in the conversation nor this part in the last turn.
        """
        if self._is_complete():
            return []
        parts = list(self.parts())
        rendered: dict[str, set[int]] = defaultdict(set)
        for part in parts:
            if not part.missing:
                rendered[part.kind].add(part.source.message)
        unrendered = self._unrendered()
        notes: dict[str, Note] = {}
        for part in parts:
            if not part.missing:
                continue
            role = self._role(part.source)
            if (
                role == "assistant"
                and _is_model_output(part.kind)
                and not rendered[part.kind] - {part.source.message}
            ):
                if not self._is_rendered_in_last_turn(part):
                    raise ValueError(_missing_output(part, self._conversation.template))
                # The template renders this kind of part, but omits it from earlier turns by design.
                rendered[part.kind].add(TOOLS)
            name = _part_name(part, role)
            if _owner(part.source) in unrendered and role != "assistant":
                name = f"{role} turns" if role else "tools"
            text = f"have {name} that the chat template does not render"
            notes.setdefault(name, Note(text, f"{part.source.path}: {quote_excerpt(part.missing)}"))
        return list(notes.values())

    def _is_complete(self) -> bool:
        """Return whether every source is fully in the text, as in most conversations."""
        return all(
            self._rendered_spans.get(i) == [(0, len(source.text))] or not source.text.strip()
            for i, source in enumerate(self._conversation.sources)
            if source.part != "role"
        )

    def _is_rendered_in_last_turn(self, part: _Part) -> bool:
        """Return whether the template would render a part in the last turn, which continues the prompt."""
        n = part.source.message + 1
        if n == len(self._conversation.messages):
            return False
        try:
            rendered = self._conversation.render(n)
        except ValueError:
            return False
        others = Coverage(self._conversation, rendered.origins).parts()
        return any(p.source is part.source and p.kind == part.kind and not p.missing for p in others)

    def _role(self, source: Source) -> str:
        return "" if source.message == TOOLS else str(self._conversation.messages[source.message]["role"])

    def _unrendered(self) -> set[str]:
        """Return the messages and tools that do not appear in the text at all."""
        sources = self._conversation.sources
        return {_owner(source) for source in sources} - {_owner(sources[i]) for i in self._rendered_spans}

    def parts(self) -> Iterator[_Part]:
        """Yield the parts that carry information."""
        calls = {s.message for s in self._conversation.sources if s.part.startswith("tool_calls")}
        values = self._rendered_paths()
        tool_parts: dict[str, list[_Part]] = defaultdict(list)
        for i, source in enumerate(self._conversation.sources):
            if source.part == "role" or not source.text.strip() or (source.is_name and source.path in values):
                continue
            if source.message == TOOLS:
                tool_parts[source.part].append(
                    _Part(source, source.part, self._missing(i, 0, len(source.text)))
                )
            elif source.part == "content":
                yield from self._content(i, source, calls_tools=source.message in calls)
            else:
                yield _Part(source, _kind(source.part), self._missing(i, 0, len(source.text)))
        for parts in tool_parts.values():
            # A schema may be rendered in a different notation, with different types and braces.
            rendered = [part for part in parts if not part.missing]
            yield rendered[0] if rendered else parts[0]

    def _rendered_paths(self) -> set[str]:
        """Return the paths of all values in the text, and of everything that contains them."""
        paths = set[str]()
        for i in self._rendered_spans:
            source = self._conversation.sources[i]
            path = "" if source.is_name else source.path
            while path and path not in paths:
                paths.add(path)
                path = path.rpartition(".")[0]
        return paths

    def _content(self, i: int, source: Source, *, calls_tools: bool) -> Iterator[_Part]:
        """Yield the reasoning in a turn's content, if any, and the remaining content."""
        text = source.text
        kind = "content next to tool calls" if calls_tools else "content"
        reasoning, tag, answer = text.rpartition(REASONING_END)
        if tag and without_tags(reasoning):
            yield _Part(source, "reasoning in content", self._missing(i, 0, len(reasoning)))
        if not tag or without_tags(answer):
            yield _Part(source, kind, self._missing(i, len(text) - len(answer), len(text)))

    def _missing(self, i: int, start: int, end: int) -> str:
        """Return the characters of a source that are not in the text, without tags such as `<think>`."""
        text = self._conversation.sources[i].text
        gaps = []
        position = start
        for s, e in sorted(self._rendered_spans.get(i, ())):
            if s > position:
                gaps.append(text[position : min(s, end)])
            position = max(position, e)
        gaps.append(text[position:end])
        missing = " ".join(filter(None, map(without_tags, gaps)))
        if not missing and i not in self._rendered_spans:  # the text consists of tags only
            return text[start:end]
        return missing


def _owner(source: Source) -> str:
    """Return the path of the message or tool that a part belongs to."""
    return ".".join(source.path.split(".")[:2])


def _kind(part: str) -> str:
    return "reasoning" if part in REASONING else part


def _is_model_output(kind: str) -> bool:
    """Return whether a kind of part is generated by an assistant, rather than metadata."""
    if kind.startswith("tool_calls"):
        return not kind.endswith((".id", ".index", ".type"))
    return kind.startswith(("content", "reasoning"))


def _part_name(part: _Part, role: str) -> str:
    if part.source.message == TOOLS:
        return f"a field '{part.source.part.partition('.')[2]}' in tools"
    if part.kind.startswith("reasoning"):
        return f"{part.kind} of some {role} turns"
    field = part.kind.replace("[0]", "").replace("[1:]", "")
    return f"a field {field!r} in {role} turns"


def _missing_output(part: _Part, template: ChatTemplate) -> str:
    """Return the error message for missing assistant output, with ways to keep it."""
    if part.kind.startswith("tool_calls"):
        name = "tool calls" if part.kind.startswith("tool_calls[0]") else "more than one tool call in a turn"
        fix = "use a chat template that renders them (tokenizer.chat_template=FILE)"
    elif part.kind.startswith("reasoning"):
        name = "the assistant's reasoning"
        fix = "use a chat template that renders it (tokenizer.chat_template=FILE), or remove it from the rows"
        switches = [name for name in sorted(template.variables) if re.search("think|reason", name)]
        if switches:
            fix = f"try tokenizer.template_arguments (the template uses {', '.join(switches)}), or {fix}"
    else:
        name = "the assistant's content" + (
            "" if part.kind == "content" else " in turns that also call tools"
        )
        fix = "use a chat template that renders it (tokenizer.chat_template=FILE), or remove it from the rows"
    return (
        f"the chat template does not render {name}, so the model would learn to omit it; {fix}, or skip such rows with"
        f" dataset.on_error=skip; {part.source.path}: {quote_excerpt(part.missing)}"
    )
