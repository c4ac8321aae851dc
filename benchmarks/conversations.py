"""Time to encode a conversation with many answers, compared with one rendering by transformers.

    python -m benchmarks.conversations TOKENIZER_FOLDER [ANSWERS ...] [--runs N]

Both libraries render the conversation with the folder's chat template and encode it. torchtune also computes the loss
mask of each answer and reports content that is missing from the tokens. Times are medians of 15 alternating runs.
Targets: less than twice transformers' time for 400 answers, and a time per answer that does not grow with their number.
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
    """Return a conversation with n answers."""
    turns: list[Any] = []
    for i in range(n):
        question = f"What is the prime number after {i}, and why do people ask?"
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": f"The answer to question {i} needs a division."})
    return turns


def medians(n_runs: int, *functions: Callable[[], object]) -> list[float]:
    """Return the median time of each function (seconds); runs alternate between the functions."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(n_runs):
        for function, function_seconds in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            function_seconds.append(time.perf_counter() - start)
    return [statistics.median(function_seconds) for function_seconds in seconds]


def main() -> None:
    parser = benchmark_parser("conversations", __doc__)
    parser.add_argument("tokenizer", metavar="TOKENIZER_FOLDER")
    parser.add_argument("answers", type=int, nargs="*", default=ANSWERS, metavar="ANSWERS")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="renderings per library")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    from torchtune.data import chat_tokens
    from torchtune.tokenizers import auto_tokenizer

    tokenizer = auto_tokenizer(arguments.tokenizer)
    peer_tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    for n in arguments.answers:
        turns = conversation(n)
        seconds, peer_seconds = medians(
            arguments.runs,
            partial(chat_tokens, tokenizer, turns),
            partial(peer_tokenizer.apply_chat_template, turns),
        )
        print(
            f"{n:5} answers  torchtune {seconds * 1e3:8.2f} ms, {seconds / n * 1e6:6.1f} us per answer"
            f"   transformers {peer_seconds * 1e3:8.2f} ms   {seconds / peer_seconds:5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
