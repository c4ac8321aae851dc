"""Autoregressive decoding of a prompt or a batch of prompts."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Unpack

import torch
from torch import Tensor

from torchtune._pluralize import pluralize
from torchtune.generation._sampling import GREEDY, Sampling, SamplingOptions, row_generator
from torchtune.modules import Decoder, KVCache

PREFILL_CHUNK_SIZE = 2048
"""Prompt tokens per prefill chunk: enough to keep a GPU busy, but few enough to limit activation memory."""


def generate(
    model: Decoder,
    tokens: list[int],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = frozenset(),
    generator: torch.Generator | None = None,
    **options: Unpack[SamplingOptions],
) -> Iterator[int]:
    """Continue a prompt, yielding each token as soon as it is chosen.

    Args:
        model: The model; it is kept in evaluation mode until the last token is generated.
        tokens: Token ids of the prompt, at least one.
        max_new_tokens: Maximum number of generated tokens.
        stop_ids: Ids that end the answer; they are not yielded.
        generator: Source of random numbers; None: torch's default generator.
        options: Fields of `Sampling`; the default is greedy decoding.

    Raises:
        ValueError: Prompt and answer together may exceed the model's `max_seq_len`, the prompt is empty or has ids
            outside the vocabulary, or an option is out of range or has no effect.
    """
    sampling = Sampling(**options)
    if sampling.temperature == 0 and generator is not None:
        raise ValueError("generator has no effect at temperature 0 (greedy decoding)")
    check_prompt(model, tokens, max_new_tokens)
    token_batches = decode_steps(
        model,
        [tokens],
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        sampling=sampling,
        generators=[torch.default_generator if generator is None else generator],
    )
    return (token for batch in token_batches for _, token in batch)


def generate_batch(  # noqa: PLR0913 -- all except three are options
    model: Decoder,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = frozenset(),
    sampling: Sampling = GREEDY,
    seed: int | None = None,
    first_index: int = 0,
    broadcast: Callable[[Tensor], Tensor] = lambda tokens: tokens,
) -> list[list[int]]:
    """Continue several prompts, whose lengths may differ, in one batch.

    Each answer equals the answer to the prompt on its own, up to the rounding of batched matrix products: batch rows
    have separate positions and random numbers, and do not attend to each other. Finished rows are removed.

    If the model is sharded, all ranks must pass the same prompts, and `broadcast`: ranks whose tokens differ
    because of rounding or different seeds would wait for each other forever.

    Args:
        model: The model; it is put into evaluation mode during the call.
        prompts: Token ids, at least one for each prompt.
        max_new_tokens: Maximum number of generated tokens for each prompt.
        stop_ids: Ids that end an answer; they are not part of it.
        sampling: Options for choosing tokens.
        seed: Seed of the random draws, combined with the prompt's index. None: torch's default generator draws a seed.
        first_index: Index of the first prompt, if the prompts are a slice of a longer list.
        broadcast: Given the tokens of a step, returns rank 0's tokens on every rank (`World.broadcast`).

    Returns:
        The generated ids of each prompt.

    Raises:
        ValueError: As in `generate`; the message contains the prompt's number, counted from 1.
    """
    for row, tokens in enumerate(prompts):
        check_prompt(model, tokens, max_new_tokens, f"prompt {first_index + row + 1}")
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in decode_steps(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        sampling=sampling,
        generators=row_generators(resolve_seed(seed, sampling), len(prompts), first_index),
        broadcast=broadcast,
    ):
        for row, token in batch:
            answers[row].append(token)
    return answers


def row_generators(seed: int, count: int, first_index: int = 0) -> list[torch.Generator]:
    """Return a generator for each batch row; `seed` and `first_index` are as in `generate_batch`."""
    return [row_generator(seed, first_index + row) for row in range(count)]


def resolve_seed(seed: int | None, sampling: Sampling) -> int:
    """Return the seed, or draw one from torch's default generator unless decoding is greedy.

    Greedy decoding draws no seed, so it leaves the random numbers of a training run unchanged.
    """
    if seed is None and sampling.temperature > 0:
        return int(torch.randint(2**63 - 1, ()))
    return seed or 0


def check_prompt(
    model: Decoder, tokens: Sequence[int], max_new_tokens: int, label: str = "the prompt"
) -> None:
    """Raise ValueError if the model cannot read a prompt, or cannot continue it by `max_new_tokens` tokens.

    Args:
        model: The model; it may be on the meta device.
        tokens: Token ids of the prompt.
        max_new_tokens: Maximum number of generated tokens.
        label: The name of the prompt in error messages.

    Raises:
        ValueError: The prompt is empty, has ids outside the vocabulary or is too long, or `max_new_tokens` is below 1.
    """
    vocab_size = model.architecture.vocab_size
    max_seq_len = model.architecture.max_seq_len
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected a number above 0, got {max_new_tokens}")
    if not tokens:
        raise ValueError(f"{label} is empty; generation needs at least one prompt token")
    if not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise ValueError(
            f"{label} has ids from {min(tokens)} to {max(tokens)}, but the model's vocabulary size is"
            f" {vocab_size}; use the model's own tokenizer"
        )
    if len(tokens) + max_new_tokens > max_seq_len:
        raise ValueError(
            f"{label} has {pluralize(len(tokens), 'token')}; together with max_new_tokens = {max_new_tokens}, this"
            f" exceeds the model's max_seq_len = {max_seq_len}; shorten the prompt or lower max_new_tokens"
        )


@torch.no_grad()  # With inference_mode, FSDP could not train with the buffers of its first forward pass.
def decode_steps(  # noqa: PLR0913 -- all except three are options
    model: Decoder,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    is_finished: Callable[[int], bool] = lambda _: False,
    broadcast: Callable[[Tensor], Tensor] = lambda tokens: tokens,
) -> Iterator[list[tuple[int, int]]]:
    """Decode one token for every unfinished batch row per step, until all rows are finished.

    Args:
        model: The model; it is put into evaluation mode while it decodes.
        prompts: Token ids that `check_prompt` accepts.
        max_new_tokens: Maximum number of generated tokens for each prompt.
        stop_ids: Ids that end an answer; they are not yielded.
        sampling: Options for choosing tokens.
        generators: One random number generator for each prompt.
        is_finished: Given the index of a prompt, returns whether the prompt needs no further token; called after the
            prompt's token is yielded.
        broadcast: As in `generate_batch`.

    Yields:
        The index of the prompt and the next token, for every unfinished row.
    """
    if not prompts:
        return
    rows = list(range(len(prompts)))  # prompts that are not finished
    lengths = [len(tokens) for tokens in prompts]
    longest = max(lengths)
    with eval_mode(model):
        cache = KVCache(model.architecture.num_layers, longest + max_new_tokens, grows=True)
        # Padding is masked until it is overwritten. It repeats the row's last token, so it marks no other id as seen.
        padded = [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in prompts]
        tokens = torch.tensor(padded, device=model.head_weight.device)  # [b, s]
        hidden = _prefill(model, tokens, lengths, cache)  # [b, d]
        seen_tokens = _seen_mask(tokens, model, hidden.device) if sampling.repetition_penalty != 1 else None
        for step in range(max_new_tokens):
            logits = model.logits(hidden)
            chosen = broadcast(sampling.choose(logits, seen_tokens, [generators[row] for row in rows]))  # [b]
            next_tokens = dict(zip(rows, chosen.tolist(), strict=True))
            yield [(row, token) for row, token in next_tokens.items() if token not in stop_ids]
            active = [
                i for i, row in enumerate(rows) if next_tokens[row] not in stop_ids and not is_finished(row)
            ]
            if not active or step == max_new_tokens - 1:
                return
            if seen_tokens is not None:
                seen_tokens.scatter_(1, chosen[:, None], value=True)
            if len(active) < len(rows):
                indices = torch.tensor(active, device=chosen.device)
                rows = [rows[i] for i in active]
                chosen = chosen[indices]
                seen_tokens = None if seen_tokens is None else seen_tokens[indices]
                cache.keep(indices, max(lengths[row] for row in rows) + step)
            hidden = _next_hidden(model, chosen, [lengths[row] + step for row in rows], cache)


def _prefill(model: Decoder, tokens: Tensor, lengths: Sequence[int], cache: KVCache) -> Tensor:
    """Prefill the cache with right-padded prompts `[b, s]`; return the hidden states `[b, d]` of their last tokens."""
    last = torch.tensor(lengths) - 1  # [b]
    chunks = []
    for start in range(0, tokens.shape[1], PREFILL_CHUNK_SIZE):
        hidden = model.hidden(tokens[:, start : start + PREFILL_CHUNK_SIZE], cache=cache)  # [b, s, d]
        indices = (last - start).clamp(0, hidden.shape[1] - 1).to(hidden.device)
        chunks.append(hidden[torch.arange(len(indices), device=hidden.device), indices])
    stacked = torch.stack(chunks)  # [n, b, d]
    indices = (last // PREFILL_CHUNK_SIZE).to(stacked.device)
    return stacked[indices, torch.arange(len(indices), device=stacked.device)]


def _next_hidden(model: Decoder, tokens: Tensor, positions: Sequence[int], cache: KVCache) -> Tensor:
    """Append one token `[b]` to each row, at the row's next position; return the hidden states `[b, d]`."""
    token_positions = None
    if set(positions) != {cache.length}:  # Rows of equal length need no mask.
        token_positions = torch.tensor(positions, device=tokens.device)[:, None]  # [b, 1]
    return model.hidden(tokens[:, None], positions=token_positions, cache=cache)[:, -1]


def _seen_mask(tokens: Tensor, model: Decoder, device: torch.device) -> Tensor:
    """Return a mask `[b, v]` of the ids that occur in each row of `tokens` `[b, s]`."""
    marks = torch.zeros(tokens.shape[0], model.architecture.vocab_size, dtype=torch.bool, device=device)
    return marks.scatter_(1, tokens.to(device), value=True)


@contextmanager
def eval_mode(model: Decoder) -> Iterator[None]:
    """Put a model into evaluation mode, and restore the mode of each of its modules afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
