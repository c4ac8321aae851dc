"""Tokens one after the other, of one text or of several at once."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Unpack

import torch
from torch import Tensor

from torchtune._counted import counted
from torchtune.generation._sampling import GREEDY, Sampling, SamplingOptions, row_generator
from torchtune.modules import Decoder, KVCache

PREFILL = 2048
"""Tokens of a prompt that go through the model at a time: enough to keep a GPU busy, and what lies between two layers
of a very long prompt takes no more memory than of these."""


def generate(
    model: Decoder,
    tokens: list[int],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = frozenset(),
    generator: torch.Generator | None = None,
    **options: Unpack[SamplingOptions],
) -> Iterator[int]:
    """Continue a text, token by token, each yielded as soon as it is known.

    Args:
        model: Put into evaluation mode until the last token.
        tokens: The prompt's ids, at least one.
        max_new_tokens: Most tokens to add.
        stop_ids: Ids that end the text; they are not yielded.
        generator: Where random numbers come from; None is torch's own.
        options: How tokens are chosen; without any, the likeliest.

    Raises:
        ValueError: prompt and answer together are longer than the model's `max_seq_len`, the prompt is
            empty or holds ids that the model does not have, or a number is out of its range or without effect.
    """
    sampling = Sampling(**options)
    if sampling.temperature == 0 and generator is not None:
        raise ValueError("generator: has no effect at temperature 0, which takes the likeliest token")
    check_prompt(model, tokens, max_new_tokens)
    found = steps(
        model,
        [tokens],
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        sampling=sampling,
        generators=[torch.default_generator if generator is None else generator],
    )
    return (token for pairs in found for _, token in pairs)


def generate_batch(  # noqa: PLR0913 -- as many as it needs
    model: Decoder,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = frozenset(),
    sampling: Sampling = GREEDY,
    seed: int | None = None,
    first_row: int = 0,
) -> list[list[int]]:
    """Continue several texts at once, of whatever lengths.

    Each gets what it would get alone, but for the rounding of a batch's larger products: it has positions and random
    numbers of its own, and no row sees another. Rows that have ended leave the batch.

    Where the model is sharded, all ranks must call it with the same prompts and, if anything is drawn, the same seed.

    Args:
        model: In evaluation mode meanwhile.
        prompts: Ids, at least one each.
        max_new_tokens: Most tokens to add to each.
        stop_ids: Ids that end a text; they are not part of it.
        sampling: How tokens are chosen.
        seed: With a row's number, what its draws depend on; None takes one from torch's own generator.
        first_row: Number of the first prompt, where these are some of more.

    Returns:
        What was added to each prompt.

    Raises:
        ValueError: as in `generate`; the message has the prompt's number.
    """
    for row, tokens in enumerate(prompts):
        check_prompt(model, tokens, max_new_tokens, f"prompt {first_row + row + 1}")
    answers: list[list[int]] = [[] for _ in prompts]
    for pairs in steps(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        sampling=sampling,
        generators=generators_of(a_seed(seed, sampling), len(prompts), first_row),
    ):
        for row, token in pairs:
            answers[row].append(token)
    return answers


def generators_of(seed: int, count: int, first_row: int = 0) -> list[torch.Generator]:
    """Return a generator for each row; `seed` and `first_row` are those of `generate_batch`."""
    return [row_generator(seed, first_row + row) for row in range(count)]


def a_seed(seed: int | None, sampling: Sampling) -> int:
    """Return the given seed, or one out of torch's own generator, unless nothing is drawn.

    A training run that looks at greedy answers in between has the same random numbers as one that does not.
    """
    if seed is None and sampling.temperature > 0:
        return int(torch.randint(2**63 - 1, ()))
    return seed or 0


def check_prompt(
    model: Decoder, tokens: Sequence[int], max_new_tokens: int, what: str = "the prompt"
) -> None:
    """Refuse a prompt that the model cannot read, or not continue by so many tokens.

    Args:
        model: May be on the meta device.
        tokens: The prompt's ids.
        max_new_tokens: Most tokens to add.
        what: Which prompt it is, for the message.

    Raises:
        ValueError: It is so.
    """
    vocab_size = model.architecture.vocab_size
    max_seq_len = model.architecture.max_seq_len
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected a number above 0, got {max_new_tokens}")
    if not tokens:
        raise ValueError(f"{what} is empty; generation needs at least one token to go on from")
    if not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise ValueError(
            f"{what} has ids from {min(tokens)} to {max(tokens)}, the model's vocabulary is"
            f" {vocab_size}; use the model's own tokenizer"
        )
    if len(tokens) + max_new_tokens > max_seq_len:
        raise ValueError(
            f"{what} has {counted(len(tokens), 'token')}, which with max_new_tokens = {max_new_tokens} are more than"
            f" the model's max_seq_len = {max_seq_len}; shorten the prompt or the answer"
        )


@torch.no_grad()  # And not inference_mode: FSDP keeps buffers of its first forward pass, and trains with them later.
def steps(  # noqa: PLR0913 -- as many as it needs
    model: Decoder,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    is_over: Callable[[int], bool] = lambda _: False,
) -> Iterator[list[tuple[int, int]]]:
    """Give every row its next token, until all are over.

    Args:
        model: In evaluation mode meanwhile.
        prompts: Checked.
        max_new_tokens: Most tokens for each.
        stop_ids: Ids that end a row; they are not yielded.
        sampling: How tokens are chosen.
        generators: One a row.
        is_over: Called with a row's number once its token has been read; whether it needs no other.

    Yields:
        The next token of every row that has one, with the row's number.
    """
    if not prompts:
        return
    rows = list(range(len(prompts)))  # those that are not over
    lengths = [len(tokens) for tokens in prompts]
    longest = max(lengths)
    with evaluating(model):
        cache = KVCache(model.architecture.num_layers, longest + max_new_tokens, grows=True)
        # What fills up a shorter row is masked until it is overwritten; its own last token is not new to it.
        filled = [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in prompts]
        tokens = torch.tensor(filled, device=model.head_weight.device)  # [b, s]
        hidden = _prefill(model, tokens, lengths, cache)  # [b, d]
        seen = _seen(tokens, model, hidden.device) if sampling.repetition_penalty != 1 else None
        for step in range(max_new_tokens):
            chosen = sampling.choose(model.logits(hidden), seen, [generators[row] for row in rows])  # [b]
            found = dict(zip(rows, chosen.tolist(), strict=True))
            yield [(row, token) for row, token in found.items() if token not in stop_ids]
            kept = [i for i, row in enumerate(rows) if found[row] not in stop_ids and not is_over(row)]
            if not kept or step == max_new_tokens - 1:
                return
            if seen is not None:
                seen.scatter_(1, chosen[:, None], value=True)
            if len(kept) < len(rows):
                at = torch.tensor(kept, device=chosen.device)
                rows = [rows[i] for i in kept]
                chosen = chosen[at]
                seen = None if seen is None else seen[at]
                cache.keep(at, max(lengths[row] for row in rows) + step)
            hidden = _next_hidden(model, chosen, [lengths[row] + step for row in rows], cache)


def _prefill(model: Decoder, tokens: Tensor, lengths: Sequence[int], cache: KVCache) -> Tensor:
    """Read prompts `[b, s]`, padded on the right, and return the hidden state `[b, d]` of each one's last token."""
    last = torch.tensor(lengths) - 1  # [b]
    parts = []
    for start in range(0, tokens.shape[1], PREFILL):
        hidden = model.hidden(tokens[:, start : start + PREFILL], cache=cache)  # [b, s, d]
        at = (last - start).clamp(0, hidden.shape[1] - 1).to(hidden.device)
        parts.append(hidden[torch.arange(len(at), device=hidden.device), at])
    found = torch.stack(parts)  # [n, b, d]
    at = (last // PREFILL).to(found.device)
    return found[at, torch.arange(len(at), device=found.device)]


def _next_hidden(model: Decoder, tokens: Tensor, positions: Sequence[int], cache: KVCache) -> Tensor:
    """Add one token `[b]` to each row, at its own position, and return its hidden state `[b, d]`."""
    at = None
    if set(positions) != {cache.length}:  # Rows of one length need no mask.
        at = torch.tensor(positions, device=tokens.device)[:, None]  # [b, 1]
    return model.hidden(tokens[:, None], positions=at, cache=cache)[:, -1]


def _seen(tokens: Tensor, model: Decoder, device: torch.device) -> Tensor:
    """Mark the tokens `[b, s]` of each row: `[b, v]`."""
    marks = torch.zeros(tokens.shape[0], model.architecture.vocab_size, dtype=torch.bool, device=device)
    return marks.scatter_(1, tokens.to(device), value=True)


@contextmanager
def evaluating(model: Decoder) -> Iterator[None]:
    """Put a model into evaluation mode, and every part of it back into the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
