"""Tokens out of a model."""

from torchtune.generation._generate import generate, generate_batch
from torchtune.generation._sampling import GREEDY, Sampling

__all__ = ["GREEDY", "Sampling", "generate", "generate_batch"]
