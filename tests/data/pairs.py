"""Builds preference pairs of random tokens."""

import random

from torchtune.data import IGNORE_INDEX, Example, Pair


def pair_of(prompt: list[int], chosen: list[int], rejected: list[int]) -> Pair:
    """Build a pair whose targets are the two answers."""
    chosen_example, rejected_example = (
        Example(prompt + answer, [IGNORE_INDEX] * len(prompt) + answer) for answer in (chosen, rejected)
    )
    return Pair(chosen_example, rejected_example)


def pairs(n: int, vocabulary: int = 50, longest: int = 12) -> list[Pair]:
    """Draw random pairs; some prompts are a single token, and some answers begin with the same tokens."""
    draw = random.Random(0)

    def tokens(max_length: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(draw.randint(1, max_length))]

    result = []
    for i in range(n):
        prompt, prefix = tokens(1 if i % 5 == 0 else longest), tokens(2) if i % 3 == 0 else []
        result.append(pair_of(prompt, [*prefix, 1, *tokens(longest)], [*prefix, 2, *tokens(longest)]))
    return result
