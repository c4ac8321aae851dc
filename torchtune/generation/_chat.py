"""Interactive chat in the terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress

from torchtune.data import Message
from torchtune.generation._assistant import Assistant

HINT = "/new starts over, /exit or Ctrl-D ends the chat, Ctrl-C stops an answer\n"


def chat(assistant: Assistant, max_new_tokens: int) -> None:
    """Answer each typed line, turn by turn, until `/exit` or the end of the input.

    Lines from a pipe are also answered; each is echoed before its answer.

    Args:
        assistant: The assistant that answers.
        max_new_tokens: Maximum length of an answer, in tokens; reduced if the model's `max_seq_len` leaves less room.
    """
    if sys.stdin.isatty():
        sys.stderr.write(HINT)
        with suppress(ImportError):  # readline is not available on every system.
            import readline  # noqa: F401 -- adds history and arrow keys to `input`
    turns: list[Message] = []
    for number, line in enumerate(typed_lines()):
        if line in ("/exit", "/new"):
            turns = []
            if line == "/exit":
                return
            continue
        conversation = [*turns, Message(role="user", content=line)]
        try:
            remaining = assistant.model.architecture.max_seq_len - len(assistant.encode(conversation))
            limit = max(1, min(max_new_tokens, remaining))
            answer = print_stream(assistant.stream(conversation, index=number, max_new_tokens=limit))
        except ValueError as error:  # The template rejects the conversation, or it is too long.
            sys.stderr.write(f"not answered: {error}; /new starts over\n")
            continue
        turns = [*conversation, Message(role="assistant", content=answer)] if answer else turns


def print_stream(pieces: Iterable[str]) -> str:
    """Print an answer as it is generated, and return it; Ctrl-C stops the answer."""
    answer = ""
    with suppress(KeyboardInterrupt):
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
            answer += piece
    sys.stdout.write("\n")
    return answer


def typed_lines() -> Iterator[str]:
    """Yield the typed lines that are not empty."""
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return
        if not sys.stdin.isatty():  # A terminal echoes its input, but a pipe does not.
            sys.stdout.write(f"{line}\n")
        if line:
            yield line
