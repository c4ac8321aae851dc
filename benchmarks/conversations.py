"""Time to encode a conversation of many answers, with its masks and report, beside transformers' single rendering.

    python benchmarks/conversations.py TOKENIZER_FOLDER [ANSWERS ...]

Both sides render the conversation through the folder's chat template and encode it; ours also finds where each answer
begins and ends, and what of the conversation is not in the tokens. The times are the medians of 15 runs, the two sides
in turn. The bounds are those of the project: 400 answers in under twice transformers' time, and a time per answer that
does not grow with their number.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

RUNS = 15


def conversation(n: int) -> list[Any]:
    """Write a conversation of some answers."""
    turns: list[Any] = []
    for i in range(n):
        turns.append(
            {"role": "user", "content": f"What is the prime number after {i}, and why do people ask?"}
        )
        turns.append(
            {"role": "assistant", "content": f"The answer to question {i} can be found by division."}
        )
    return turns


def medians(*sides: Callable[[], object]) -> list[float]:
    """Time each side, in turn."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(RUNS):
        for side, of_side in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            of_side.append(time.perf_counter() - start)
    return [statistics.median(of_side) for of_side in seconds]


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    from torchtune.data import chat_tokens
    from torchtune.tokenizers import auto_tokenizer

    ours, theirs = auto_tokenizer(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
    for n in [int(word) for word in sys.argv[2:]] or [1, 50, 100, 400, 1600]:
        turns = conversation(n)
        a, b = medians(lambda t=turns: chat_tokens(ours, t), lambda t=turns: theirs.apply_chat_template(t))
        print(
            f"{n:5} answers  ours {a * 1e3:8.2f} ms, {a / n * 1e6:6.1f} us an answer"
            f"   transformers {b * 1e3:8.2f} ms   {a / b:5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
