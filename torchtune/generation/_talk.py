"""A conversation on the terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress

from torchtune.data import Message
from torchtune.generation._assistant import Assistant

HINT = "/new starts over, /exit or Ctrl-D ends, Ctrl-C cuts an answer\n"


def talk(assistant: Assistant, max_new_tokens: int) -> None:
    """Answer what is typed, turn by turn, until `/exit` or the end of the input.

    What comes through a pipe is answered as well, and written out beside its answer.

    Args:
        assistant: Answers.
        max_new_tokens: Tokens after which an answer is cut off; fewer, where the model can read no more.
    """
    if sys.stdin.isatty():
        sys.stderr.write(HINT)
        with suppress(ImportError):  # Not on every system.
            import readline  # noqa: F401 -- loaded, it gives `input` a history and arrow keys
    turns: list[Message] = []
    for number, line in enumerate(typed_lines()):
        if line in ("/exit", "/new"):
            turns = []
            if line == "/exit":
                return
            continue
        asked = [*turns, Message(role="user", content=line)]
        try:
            room = assistant.model.architecture.max_seq_len - len(assistant.encode(asked))
            most = max(1, min(max_new_tokens, room))
            answer = say(assistant.stream(asked, row=number, max_new_tokens=most))
        except ValueError as error:  # The template's, or the conversation is too long.
            sys.stderr.write(f"not answered: {error}; /new starts over\n")
            continue
        turns = [*asked, Message(role="assistant", content=answer)] if answer else turns


def say(pieces: Iterable[str]) -> str:
    """Write an answer to standard output as it comes, and return it; Ctrl-C cuts it."""
    answer = ""
    with suppress(KeyboardInterrupt):
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
            answer += piece
    sys.stdout.write("\n")
    return answer


def typed_lines() -> Iterator[str]:
    """Yield the lines that are typed and are not empty."""
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return
        if not sys.stdin.isatty():  # Nobody else writes down what was asked.
            sys.stdout.write(f"{line}\n")
        if line:
            yield line
