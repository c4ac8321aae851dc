"""Tokens out of a model."""

from torchtune.generation._generate import generate

__all__ = ["generate"]
