"""Time to encode a conversation of many answers with masks and report, compared with one rendering by transformers.

    python -m benchmarks.conversations TOKENIZER_FOLDER [ANSWERS ...] [--runs N]

Both sides render the conversation through the folder's chat template and encode it; torchtune also locates each answer
and finds what the tokens do not contain. The times are the medians of 15 runs, the two sides
in turn. The bounds are those of the project: 400 answers in under twice transformers' time, and a time per answer that
does not grow with their number.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.command_line import benchmark_parser

ANSWERS = [1, 50, 100, 400, 1600]


def conversation(n: int) -> list[Any]:
    """Return a conversation of n answers."""
    turns: list[Any] = []
    for i in range(n):
        question = f"What is the prime number after {i}, and why do people ask?"
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": f"The answer to question {i} needs a division."})
    return turns


def medians(n_runs: int, *sides: Callable[[], object]) -> list[float]:
    """Return the median seconds of each side, which run in turn."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(n_runs):
        for side, of_side in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            of_side.append(time.perf_counter() - start)
    return [statistics.median(of_side) for of_side in seconds]


def main() -> None:
    parser = benchmark_parser("conversations", __doc__)
    parser.add_argument("tokenizer", metavar="TOKENIZER_FOLDER")
    parser.add_argument("answers", type=int, nargs="*", default=ANSWERS, metavar="ANSWERS")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="renderings of each side")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    from torchtune.data import chat_tokens
    from torchtune.tokenizers import auto_tokenizer

    tokenizer = auto_tokenizer(arguments.tokenizer)
    peer_tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    for n in arguments.answers:
        turns = conversation(n)
        seconds, peer = medians(
            arguments.runs,
            partial(chat_tokens, tokenizer, turns),
            partial(peer_tokenizer.apply_chat_template, turns),
        )
        print(
            f"{n:5} answers  torchtune {seconds * 1e3:8.2f} ms, {seconds / n * 1e6:6.1f} us per answer"
            f"   transformers {peer * 1e3:8.2f} ms   {seconds / peer:5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
