"""One training example: tokens, and which of them are targets."""

from collections.abc import Iterable
from typing import Literal

from attrs import evolve, field, frozen

from torchtune.data._notes import Note
from torchtune.data._special_text import text_notes
from torchtune.data._tokenizer import Tokenizer

IGNORE_INDEX = -100
"""The label of a token that is no target: what torch.nn.CrossEntropyLoss ignores by default."""


@frozen
class Example:
    """A token sequence, and of each token whether the model is trained to predict it.

    `labels[i]` is `tokens[i]` where that token is a target and IGNORE_INDEX elsewhere; the shift by one
    is made when examples are collated. The first token is never predicted, so it is never a target.

    Raises:
        ValueError: the lengths differ, or there are fewer than two tokens (one to read, one to predict).
    """

    tokens: list[int]
    labels: list[int]
    notes: tuple[Note, ...] = field(default=(), eq=False)
    """What happened to the row that it comes from."""

    def __attrs_post_init__(self) -> None:
        if len(self.tokens) != len(self.labels):
            raise ValueError(f"an example of {len(self.tokens)} tokens has {len(self.labels)} labels")
        if len(self.tokens) < 2:
            raise ValueError("an example needs at least two tokens, one to read and one to predict")

    def with_notes(self, notes: Iterable[Note]) -> "Example":
        """Return the same example with further notes."""
        return evolve(self, notes=(*self.notes, *notes))

    @property
    def n_targets(self) -> int:
        """How many tokens this example trains."""
        return len(self.labels) - 1 - self.labels[1:].count(IGNORE_INDEX)


@frozen
class LeftOut:
    """A row that gives no example."""

    reason: str
    """What is the matter with it, as `rows` would be said to: "have no answer"."""
    place: str
    """Where it stands."""

    @property
    def note(self) -> Note:
        """The note that reports it."""
        return Note(f"{self.reason} and are left out")


@frozen
class Preference:
    """Two answers to one prompt, of which one is preferred."""

    chosen: Example
    rejected: Example


def cut(example: Example, max_seq_len: int, side: Literal["left", "right"]) -> Example:
    """Cut an example that is too long; one that is not stays as it is.

    Args:
        example: Of any length.
        max_seq_len: Tokens that stay at most, above 1.
        side: Where tokens are taken away.
    """
    if len(example.tokens) <= max_seq_len:
        return example
    kept = slice(-max_seq_len, None) if side == "left" else slice(max_seq_len)
    return evolve(example, tokens=example.tokens[kept], labels=example.labels[kept])


def plain_example(tokenizer: Tokenizer, prompt: str, answer: str, *, train_on_input: bool) -> Example:
    """Encode a prompt directly followed by its answer, with the tokens that begin and end a text.

    Args:
        tokenizer: Encodes both.
        prompt: Given to the model.
        answer: What the model shall say, then stop.
        train_on_input: Train on the prompt as well, not on the answer alone.
    """
    prompt_tokens = tokenizer.encode(prompt, add_eos=False)
    tokens = tokenizer.encode(prompt + answer)
    if tokens[: len(prompt_tokens)] != prompt_tokens:
        # The border was merged into one token. Generation starts from the prompt's tokens, so training does too.
        tokens = prompt_tokens + tokenizer.encode(answer, add_bos=False)
    n_masked = 0 if train_on_input else len(prompt_tokens)
    notes = text_notes(tokenizer, prompt + answer)
    return Example(tokens, [IGNORE_INDEX] * n_masked + tokens[n_masked:], tuple(notes))
