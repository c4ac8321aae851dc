"""A model that is asked in words and answers in words."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

from attrs import evolve, field, frozen

from torchtune.data import Message, Tokenizer
from torchtune.generation._generate import a_seed, check_prompt, generators_of, steps
from torchtune.generation._prompts import Prompt, Template, encode_prompt, pick_template
from torchtune.generation._sampling import GREEDY, Sampling, SamplingOptions
from torchtune.generation._text import AnswerText, as_text
from torchtune.modules import Decoder

Question = str | Prompt | Sequence[Message] | Sequence[int]
"""A text; the turns of a conversation; or a prompt's token ids, which are taken as they are."""


class How(SamplingOptions, total=False):
    """How answers are written; what is left out is as the assistant was made."""

    max_new_tokens: int
    """Tokens after which an answer is cut off; 256."""
    stop: Sequence[str]
    """Strings before which an answer ends."""
    seed: int | None
    """Seed of the draws; None: another one every time, out of torch's own generator."""


@frozen(kw_only=True)
class _Settings:
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    stop: Sequence[str] = field(default=(), converter=tuple)
    seed: int | None = None

    def changed(self, how: How) -> "_Settings":
        unknown = how.keys() - How.__annotations__.keys()
        if unknown:
            raise TypeError(f"there is no {min(unknown)!r}, only {', '.join(How.__annotations__)}")
        own: dict[str, Any] = {name: value for name, value in how.items() if hasattr(self, name)}
        sampling: dict[str, Any] = {name: value for name, value in how.items() if name not in own}
        return evolve(self, sampling=evolve(self.sampling, **sampling), **own)


class Assistant:
    """Answers questions with a model, whole or piece by piece.

    Args:
        model: With its weights. It is put into evaluation mode for the length of an answer.
        tokenizer: The model's.
        template: How questions are written out.
        system: What conversations begin with that have no system's turn of their own.
        how: How answers are written, unless a call says otherwise.

    Raises:
        ValueError: the tokenizer has no such template, or a number is out of its range or without effect.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        template: Template = "auto",
        system: str | None = None,
        **how: Unpack[How],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.system = system
        self.template = pick_template(tokenizer, template, system)
        self._settings = _Settings().changed(how)
        self.n_tokens = 0
        """Tokens that it has written so far, without those that end answers."""
        self.seconds = 0.0
        """What they took, the reading of the questions included."""

    def encode(self, question: Question) -> list[int]:
        """Write a question out as the model was taught to read it, and encode it.

        Raises:
            ValueError: it is empty, or the template refuses it.
        """
        if isinstance(question, str):
            question = Prompt.of_text(question)
        if isinstance(question, Prompt):
            return encode_prompt(self.tokenizer, question, self.template, self.system)
        ids = [part for part in question if isinstance(part, int)]
        if len(ids) == len(question):
            return ids
        return self.encode(Prompt([part for part in question if not isinstance(part, int)]))

    def stream(self, question: Question, *, row: int = 0, **how: Unpack[How]) -> Iterator[str]:
        """Yield an answer piece by piece, each as soon as it can no longer change.

        Args:
            question: What is asked.
            row: The question's number among more, on which the draws depend as well as on the seed.
            how: Instead of what the assistant was made with.

        Raises:
            ValueError: the question and the longest answer are longer than the model's `max_seq_len`; as well as
                `encode` and the assistant itself.
        """
        settings = self._settings.changed(how)
        (tokens,) = self._encode_all([question], settings, 0)
        ids = (token for pairs in self._steps([tokens], settings, row) for _, token in pairs)
        return as_text(self._counted(ids), self.tokenizer, settings.stop)

    def answer(self, question: Question, **how: Unpack[How]) -> str:
        """Return an answer; the arguments are those of `stream`."""
        return "".join(self.stream(question, **how))

    def answers(
        self, questions: Sequence[Question], *, batch_size: int = 8, first_row: int = 0, **how: Unpack[How]
    ) -> list[str]:
        """Answer several questions, some at a time; each as it would be answered alone, but for rounding.

        Args:
            questions: What is asked.
            batch_size: How many are answered at a time; memory grows with it.
            first_row: The first one's number, where these are some of more.
            how: As in `stream`.

        Raises:
            ValueError: as in `stream`, of whichever question it is.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a number above 0, got {batch_size}")
        settings = self._settings.changed(how)
        settings = evolve(settings, seed=a_seed(settings.seed, settings.sampling))
        prompts = self._encode_all(questions, settings, first_row)
        batches = range(0, len(prompts), batch_size)
        return [
            text
            for start in batches
            for text in self._batch(prompts[start : start + batch_size], settings, first_row + start)
        ]

    def encode_all(self, questions: Sequence[Question], **how: Unpack[How]) -> list[list[int]]:
        """Encode questions, once all are known to be such that they can be answered.

        Args:
            questions: What is asked.
            how: As in `stream`.

        Raises:
            ValueError: as in `stream`; where there are several, the message has the question's number.
        """
        return self._encode_all(questions, self._settings.changed(how), 0)

    def _encode_all(
        self, questions: Sequence[Question], settings: _Settings, first_row: int
    ) -> list[list[int]]:
        prompts = []
        for n, question in enumerate(questions, start=first_row + 1):
            which = "the prompt" if n == len(questions) == 1 else f"prompt {n}"
            try:
                tokens = self.encode(question)
            except ValueError as error:
                raise ValueError(f"{which}: {error}") from error
            check_prompt(self.model, tokens, settings.max_new_tokens, which)
            prompts.append(tokens)
        return prompts

    def _batch(self, prompts: Sequence[list[int]], settings: _Settings, first_row: int) -> list[str]:
        texts = [AnswerText(self.tokenizer, settings.stop) for _ in prompts]
        pieces: list[list[str]] = [[] for _ in prompts]
        started = time.perf_counter()
        for pairs in self._steps(prompts, settings, first_row, lambda row: texts[row].is_over):
            self.n_tokens += len(pairs)
            for row, token in pairs:
                pieces[row].append(texts[row].add(token))
        self.seconds += time.perf_counter() - started
        return ["".join([*own, text.end()]) for own, text in zip(pieces, texts, strict=True)]

    def _steps(
        self,
        prompts: Sequence[list[int]],
        settings: _Settings,
        first_row: int,
        is_over: Callable[[int], bool] = lambda _: False,
    ) -> Iterator[list[tuple[int, int]]]:
        return steps(
            self.model,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            stop_ids=self.tokenizer.stop_ids,
            sampling=settings.sampling,
            generators=generators_of(a_seed(settings.seed, settings.sampling), len(prompts), first_row),
            is_over=is_over,
        )

    def _counted(self, ids: Iterator[int]) -> Iterator[int]:
        started = time.perf_counter()
        for token in ids:
            self.n_tokens += 1
            self.seconds += time.perf_counter() - started
            yield token
            started = time.perf_counter()  # What the reader does between two tokens is not counted.
        self.seconds += time.perf_counter() - started
