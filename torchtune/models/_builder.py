"""Builders of models of one size."""

from typing import Protocol

from attrs import evolve

from torchtune.modules import Architecture, Decoder


class Builder(Protocol):
    """A function that builds a model of one size, with random weights."""

    def __call__(self, max_seq_len: int = ...) -> Decoder:
        """Build the model.

        Args:
            max_seq_len: Longest sequence, in tokens.
        """


def builder(module: str, name: str, architecture: Architecture, checkpoint: str) -> Builder:
    """Return a function that builds a model of one size, as if it were defined by `def name(max_seq_len=...)`.

    Args:
        module: The `__name__` of the file.
        name: The variable that holds the function, by which configs name it.
        architecture: Its sizes; `max_seq_len` is the function's default.
        checkpoint: Where the sizes are from: the model on the Hugging Face hub that has them in its config.json.
    """

    def build(max_seq_len: int = architecture.max_seq_len) -> Decoder:
        return Decoder(evolve(architecture, max_seq_len=max_seq_len))

    build.__module__ = module
    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""Build {checkpoint}, with random weights, as its config.json describes it.

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return build
