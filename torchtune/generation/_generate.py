"""Tokens one after the other, of one text or of several at once."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from torchtune.generation._sampling import GREEDY, Sampling, row_generator
from torchtune.modules import Decoder, KVCache

PREFILL = 2048
"""Tokens of a prompt that go through the model at a time: enough to keep a GPU busy, and what lies between two layers
of a very long prompt takes no more memory than of these."""


def generate(  # noqa: PLR0913 -- sampling has plain arguments, as many as it needs
    model: Decoder,
    tokens: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop_ids: Collection[int] = frozenset(),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Continue a text, token by token, each yielded as soon as it is known.

    Args:
        model: Put into evaluation mode until the last token.
        tokens: The prompt's ids, at least one.
        max_new_tokens: Most tokens to add.
        temperature: As in `Sampling`, like the next four; 0 takes the likeliest token.
        top_k: Draw among this many of the likeliest tokens; None is all.
        top_p: Draw among the fewest that have this share together; None is all.
        min_p: Draw among those that have this share of the likeliest one's probability; None is all.
        repetition_penalty: What makes tokens less likely that are there already; 1 is none.
        stop_ids: Ids that end the text; they are not yielded.
        generator: Where random numbers come from; None is torch's own.

    Raises:
        ValueError: prompt and answer together are longer than the model's `max_seq_len`, the prompt is
            empty or holds ids that the model does not have, or a number is out of its range or without effect.
    """
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    if temperature == 0 and generator is not None:
        raise ValueError("generator: has no effect at temperature 0, which takes the likeliest token")
    check_prompt(model, tokens, max_new_tokens)
    generators = [torch.default_generator if generator is None else generator]
    return stream(
        model,
        tokens,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        sampling=sampling,
        generators=generators,
    )


def generate_batch(  # noqa: PLR0913 -- as above
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

    def goes_on(row: int, token: int) -> bool:
        if token in stop_ids:
            return False
        answers[row].append(token)
        return True

    for _ in steps(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        generators=generators_of(a_seed(seed, sampling), len(prompts), first_row),
        goes_on=goes_on,
    ):
        pass
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
            f"{what} has {len(tokens)} tokens, which with max_new_tokens = {max_new_tokens} are more than the"
            f" model's max_seq_len = {max_seq_len}; shorten the prompt or the answer"
        )


def stream(
    model: Decoder,
    tokens: list[int],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
) -> Iterator[int]:
    """Yield one answer's tokens as they come."""
    found: list[int] = []

    def goes_on(_: int, token: int) -> bool:
        found.append(token)
        return token not in stop_ids

    for _ in steps(
        model,
        [tokens],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        generators=generators,
        goes_on=goes_on,
    ):
        if found[-1] not in stop_ids:
            yield found[-1]


@torch.no_grad()  # And not inference_mode: FSDP keeps buffers of its first forward pass, and trains with them later.
def steps(
    model: Decoder,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    goes_on: Callable[[int, int], bool],
) -> Iterator[None]:
    """Give every row its next token, until none goes on.

    Args:
        model: In evaluation mode meanwhile.
        prompts: Checked.
        max_new_tokens: Most tokens for each.
        sampling: How they are chosen.
        generators: One a row.
        goes_on: Called with a row's number and its next token; whether the row shall have another.

    Yields:
        After every token of all rows.
    """
    if not prompts:
        return
    rows = list(range(len(prompts)))  # those that go on
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
            kept = [i for i, token in enumerate(chosen.tolist()) if goes_on(rows[i], token)]
            yield
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
