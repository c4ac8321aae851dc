"""A chat assistant: a model, its tokenizer and a prompt template."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Unpack

from attrs import evolve, field, frozen

from torchtune.data import Message, Tokenizer
from torchtune.generation._generate import check_prompt, decode_steps, resolve_seed, row_generators
from torchtune.generation._prompts import Prompt, Template, encode_prompt, pick_template
from torchtune.generation._sampling import GREEDY, Sampling, SamplingOptions
from torchtune.generation._text import AnswerText, decode_stream
from torchtune.modules import Decoder


@frozen
class EncodedPrompt:
    """A tokenized prompt."""

    tokens: list[int]
    """Token ids of the prompt and of the prefilled part of the answer."""
    prefill: str = ""
    """Text of the prefilled part of the answer."""

    @property
    def last(self) -> list[int]:
        """The last prefilled token of the answer, in a list; empty if the answer has no prefill."""
        return self.tokens[-1:] if self.prefill else []


Question = str | Prompt | EncodedPrompt | Sequence[Message] | Sequence[int]
"""Text, the turns of a conversation, or token ids, which are used unchanged."""


class AnswerOptions(SamplingOptions, total=False):
    """Options of an answer; omitted options keep the assistant's values."""

    max_new_tokens: int
    """Maximum length of an answer, in tokens; 256 by default."""
    stop: Sequence[str]
    """Stop strings; an answer ends before the first one that occurs."""
    prefill: str
    """Text that an answer begins with and includes; the `answer` of a `Prompt` takes precedence."""
    seed: int | None
    """Random seed; None: each call draws a new seed from torch's default generator."""


@frozen(kw_only=True)
class _Settings:
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    stop: Sequence[str] = field(default=(), converter=tuple)
    prefill: str = ""
    seed: int | None = None

    def updated(self, options: AnswerOptions) -> "_Settings":
        unknown = options.keys() - AnswerOptions.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"unknown option {min(unknown)!r}; expected {', '.join(AnswerOptions.__annotations__)}"
            )
        fields: dict[str, Any] = {name: value for name, value in options.items() if hasattr(self, name)}
        sampling: dict[str, Any] = {name: value for name, value in options.items() if name not in fields}
        return evolve(self, sampling=evolve(self.sampling, **sampling), **fields)


class Assistant:
    """Answers questions with a model, as a string or a stream.

    Args:
        model: The model, with its weights loaded; it is put into evaluation mode while it answers.
        tokenizer: The model's tokenizer.
        template: The format of questions.
        system: System prompt for conversations without one.
        options: Default options of answers; each call may override them.

    Raises:
        ValueError: The tokenizer does not support the template, or an option is out of range or has no effect.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        template: Template = "auto",
        system: str | None = None,
        **options: Unpack[AnswerOptions],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.system = system
        self.template = pick_template(tokenizer, template, system)
        self._settings = _Settings().updated(options)
        self.n_tokens = 0
        """Number of tokens generated so far, excluding stop tokens."""
        self.seconds = 0.0
        """Seconds spent generating these tokens, including prefill."""

    def encode(self, question: Question, **options: Unpack[AnswerOptions]) -> list[int]:
        """Format a question with the template, and tokenize it.

        Args:
            question: The question.
            options: As in `stream`.

        Raises:
            ValueError: The question is empty, or the template rejects it.
        """
        return self._encode(question, self._settings.updated(options)).tokens

    def _encode(self, question: Question, settings: _Settings) -> EncodedPrompt:
        if isinstance(question, EncodedPrompt):
            return question
        if isinstance(question, str):
            question = Prompt.from_text(question)
        if not isinstance(question, Prompt):
            ids = [part for part in question if isinstance(part, int)]
            if len(ids) == len(question):
                if settings.prefill:
                    raise ValueError(
                        "prefill has no effect on a prompt given as token ids; append the prefill's tokens to the ids"
                    )
                return EncodedPrompt(ids)
            question = Prompt([part for part in question if not isinstance(part, int)])
        if question.answer is None and settings.prefill:
            question = evolve(question, answer=Message(role="assistant", content=settings.prefill))
        tokens = encode_prompt(self.tokenizer, question, self.template, self.system)
        return EncodedPrompt(tokens, self._encoded_prefill(question.prefill, tokens))

    def _encoded_prefill(self, prefill: str, tokens: list[int]) -> str:
        """Return the prefill as it is encoded: without trailing white space if the template strips it."""
        is_stripped = prefill[-1:].isspace() and not self.tokenizer.decode(tokens[-8:]).endswith(prefill[-1])
        return prefill.rstrip() if is_stripped else prefill

    def stream(
        self, question: Question, *, index: int = 0, **options: Unpack[AnswerOptions]
    ) -> Iterator[str]:
        """Yield an answer in pieces, each as soon as it can no longer change.

        Args:
            question: The question.
            index: The question's index in a series; the random numbers depend on it and on the seed.
            options: Options that override the assistant's.

        Raises:
            ValueError: The question and the longest answer together exceed the model's `max_seq_len`, or as in
                `encode` and `Assistant`.
        """
        settings = self._settings.updated(options)
        (prompt,) = self._encode_all([question], settings, 0)
        ids = (token for batch in self._steps([prompt.tokens], settings, index) for _, token in batch)
        pieces = decode_stream(self._measured(ids), self.tokenizer, settings.stop, prompt.last)
        return chain([prompt.prefill], pieces) if prompt.prefill else pieces

    def answer(self, question: Question, **options: Unpack[AnswerOptions]) -> str:
        """Return an answer; the arguments are as in `stream`."""
        return "".join(self.stream(question, **options))

    def answers(
        self,
        questions: Sequence[Question],
        *,
        batch_size: int = 8,
        first_index: int = 0,
        **options: Unpack[AnswerOptions],
    ) -> list[str]:
        """Answer questions in batches; each answer equals the answer to the question on its own, up to rounding.

        Args:
            questions: The questions.
            batch_size: Number of questions answered at once; memory grows with it.
            first_index: Index of the first question, if the questions are a slice of a longer list.
            options: As in `stream`.

        Raises:
            ValueError: As in `stream`, for any of the questions.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a number above 0, got {batch_size}")
        settings = self._settings.updated(options)
        settings = evolve(settings, seed=resolve_seed(settings.seed, settings.sampling))
        prompts = self._encode_all(questions, settings, first_index)
        batches = range(0, len(prompts), batch_size)
        return [
            text
            for start in batches
            for text in self._batch(prompts[start : start + batch_size], settings, first_index + start)
        ]

    def encode_all(
        self, questions: Sequence[Question], **options: Unpack[AnswerOptions]
    ) -> list[EncodedPrompt]:
        """Tokenize questions, and check that each can be answered.

        Args:
            questions: The questions.
            options: As in `stream`.

        Raises:
            ValueError: As in `stream`; if there are several questions, the message contains the question's number.
        """
        return self._encode_all(questions, self._settings.updated(options), 0)

    def _encode_all(
        self, questions: Sequence[Question], settings: _Settings, first_index: int
    ) -> list[EncodedPrompt]:
        prompts = []
        for n, question in enumerate(questions, start=first_index + 1):
            label = "the prompt" if n == len(questions) == 1 else f"prompt {n}"
            try:
                prompt = self._encode(question, settings)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
            check_prompt(self.model, prompt.tokens, settings.max_new_tokens, label)
            prompts.append(prompt)
        return prompts

    def _batch(self, prompts: Sequence[EncodedPrompt], settings: _Settings, first_index: int) -> list[str]:
        texts = [AnswerText(self.tokenizer, settings.stop, prompt.last) for prompt in prompts]
        pieces = [[prompt.prefill] for prompt in prompts]
        started = time.perf_counter()
        tokens = [prompt.tokens for prompt in prompts]
        for batch in self._steps(tokens, settings, first_index, lambda row: texts[row].is_finished):
            self.n_tokens += len(batch)
            for row, token in batch:
                pieces[row].append(texts[row].add(token))
        self.seconds += time.perf_counter() - started
        return ["".join([*parts, text.end()]) for parts, text in zip(pieces, texts, strict=True)]

    def _steps(
        self,
        prompts: Sequence[list[int]],
        settings: _Settings,
        first_index: int,
        is_finished: Callable[[int], bool] = lambda _: False,
    ) -> Iterator[list[tuple[int, int]]]:
        return decode_steps(
            self.model,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            stop_ids=self.tokenizer.stop_ids,
            sampling=settings.sampling,
            generators=row_generators(
                resolve_seed(settings.seed, settings.sampling), len(prompts), first_index
            ),
            is_finished=is_finished,
        )

    def _measured(self, ids: Iterator[int]) -> Iterator[int]:
        started = time.perf_counter()
        for token in ids:
            self.n_tokens += 1
            self.seconds += time.perf_counter() - started
            yield token
            started = time.perf_counter()  # Exclude the time that the caller spends between two tokens.
        self.seconds += time.perf_counter() - started
