"""A model that is asked in words and answers in words."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Unpack

from attrs import evolve, field, frozen

from torchtune.data import Message, Tokenizer
from torchtune.generation._generate import a_seed, check_prompt, generators_of, steps
from torchtune.generation._prompts import Prompt, Template, encode_prompt, pick_template
from torchtune.generation._sampling import GREEDY, Sampling, SamplingOptions
from torchtune.generation._text import AnswerText, as_text
from torchtune.modules import Decoder


@frozen
class EncodedPrompt:
    """A question as the model reads it."""

    tokens: list[int]
    """Ids of the prompt and of the beginning of its answer."""
    prefill: str = ""
    """The beginning of the answer, as text."""

    @property
    def last(self) -> list[int]:
        """The last token of the beginning of the answer, in a list; an empty list if there is none."""
        return self.tokens[-1:] if self.prefill else []


Question = str | Prompt | EncodedPrompt | Sequence[Message] | Sequence[int]
"""A text; the turns of a conversation; or a prompt's token ids, which are taken as they are."""


class How(SamplingOptions, total=False):
    """How answers are written; what is left out is as the assistant was made."""

    max_new_tokens: int
    """Tokens after which an answer is cut off; 256."""
    stop: Sequence[str]
    """Strings before which an answer ends."""
    prefill: str
    """Text that an answer begins with, and which is part of it, unless a `Prompt` has an `answer` itself."""
    seed: int | None
    """Seed of the draws; None: another one every time, out of torch's own generator."""


@frozen(kw_only=True)
class _Settings:
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    stop: Sequence[str] = field(default=(), converter=tuple)
    prefill: str = ""
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

    def encode(self, question: Question, **how: Unpack[How]) -> list[int]:
        """Write a question out as the model was taught to read it, and encode it.

        Args:
            question: What is asked.
            how: As in `stream`.

        Raises:
            ValueError: it is empty, or the template refuses it.
        """
        return self._encode(question, self._settings.changed(how)).tokens

    def _encode(self, question: Question, settings: _Settings) -> EncodedPrompt:
        if isinstance(question, EncodedPrompt):
            return question
        if isinstance(question, str):
            question = Prompt.of_text(question)
        if not isinstance(question, Prompt):
            ids = [part for part in question if isinstance(part, int)]
            if len(ids) == len(question):
                if settings.prefill:
                    raise ValueError("prefill: has no effect on a prompt's token ids; add its tokens to them")
                return EncodedPrompt(ids)
            question = Prompt([part for part in question if not isinstance(part, int)])
        if question.answer is None and settings.prefill:
            question = evolve(question, answer=Message(role="assistant", content=settings.prefill))
        tokens = encode_prompt(self.tokenizer, question, self.template, self.system)
        return EncodedPrompt(tokens, self._written(question.prefill, tokens))

    def _written(self, prefill: str, tokens: list[int]) -> str:
        """Return the beginning of an answer without the space at its end, if the template strips that."""
        is_stripped = prefill[-1:].isspace() and not self.tokenizer.decode(tokens[-8:]).endswith(prefill[-1])
        return prefill.rstrip() if is_stripped else prefill

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
        (prompt,) = self._encode_all([question], settings, 0)
        ids = (token for pairs in self._steps([prompt.tokens], settings, row) for _, token in pairs)
        pieces = as_text(self._counted(ids), self.tokenizer, settings.stop, prompt.last)
        return chain([prompt.prefill], pieces) if prompt.prefill else pieces

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

    def encode_all(self, questions: Sequence[Question], **how: Unpack[How]) -> list[EncodedPrompt]:
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
    ) -> list[EncodedPrompt]:
        prompts = []
        for n, question in enumerate(questions, start=first_row + 1):
            which = "the prompt" if n == len(questions) == 1 else f"prompt {n}"
            try:
                prompt = self._encode(question, settings)
            except ValueError as error:
                raise ValueError(f"{which}: {error}") from error
            check_prompt(self.model, prompt.tokens, settings.max_new_tokens, which)
            prompts.append(prompt)
        return prompts

    def _batch(self, prompts: Sequence[EncodedPrompt], settings: _Settings, first_row: int) -> list[str]:
        texts = [AnswerText(self.tokenizer, settings.stop, prompt.last) for prompt in prompts]
        pieces = [[prompt.prefill] for prompt in prompts]
        started = time.perf_counter()
        tokens = [prompt.tokens for prompt in prompts]
        for pairs in self._steps(tokens, settings, first_row, lambda row: texts[row].is_over):
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
