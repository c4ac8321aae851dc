"""Pairs of random tokens."""

import random

from torchtune.data import IGNORE_INDEX, Example, Pair


def pair_of(prompt: list[int], chosen: list[int], rejected: list[int]) -> Pair:
    """Make a pair of which the answers are targets."""
    chosen_example, rejected_example = (
        Example(prompt + answer, [IGNORE_INDEX] * len(prompt) + answer) for answer in (chosen, rejected)
    )
    return Pair(chosen_example, rejected_example)


def pairs(n: int, vocabulary: int = 50, longest: int = 12) -> list[Pair]:
    """Draw pairs; some prompts are a single token, and some answers begin alike."""
    draw = random.Random(0)

    def tokens(most: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(draw.randint(1, most))]

    drawn = []
    for i in range(n):
        prompt, alike = tokens(1 if i % 5 == 0 else longest), tokens(2) if i % 3 == 0 else []
        drawn.append(pair_of(prompt, [*alike, 1, *tokens(longest)], [*alike, 2, *tokens(longest)]))
    return drawn
