"""One token after the other."""

from collections.abc import Callable, Collection, Iterator
from functools import partial

import torch
from torch import Tensor

from torchtune.modules import Decoder, KVCache


def generate(  # noqa: PLR0913  Sampling has plain arguments, as many as it needs.
    model: Decoder,
    tokens: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop_ids: Collection[int] = frozenset(),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Continue a text, token by token, each yielded as soon as it is known.

    Args:
        model: Put into evaluation mode until the last token.
        tokens: The prompt's ids, at least one.
        max_new_tokens: Most tokens to add.
        temperature: What logits are divided by before drawing; 0 takes the likeliest token.
        top_k: Draw among this many of the likeliest tokens; None is all.
        stop_ids: Ids that end the text; they are not yielded.
        generator: Where random numbers come from, on the model's device; None is torch's own.

    Raises:
        ValueError: prompt and answer together are longer than the model's `max_seq_len`, the prompt is
            empty or holds ids that the model does not have, or a number is out of its range.
    """
    _check_prompt(model, tokens, max_new_tokens)
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature is to be 0 or more, top_k above 0; got {temperature} and {top_k}")
    if temperature == 0 and (top_k is not None or generator is not None):
        raise ValueError("top_k and generator have no effect at temperature 0, the likeliest token is taken")
    pick = partial(_pick, temperature=temperature, top_k=top_k, generator=generator)
    return _generate(model, tokens, max_new_tokens, stop_ids, pick)


def _check_prompt(model: Decoder, tokens: list[int], max_new_tokens: int) -> None:
    vocab_size, max_seq_len = model.architecture.vocab_size, model.architecture.max_seq_len
    if not tokens or max_new_tokens < 1:
        raise ValueError("generation needs a prompt of at least one token, and max_new_tokens above 0")
    if not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise ValueError(
            f"the prompt has ids from {min(tokens)} to {max(tokens)}, the model's vocabulary is"
            f" {vocab_size}; use the model's own tokenizer"
        )
    if len(tokens) + max_new_tokens > max_seq_len:
        raise ValueError(
            f"a prompt of {len(tokens)} tokens and max_new_tokens = {max_new_tokens} are more than the"
            f" model's max_seq_len = {max_seq_len}"
        )


@torch.inference_mode()
def _generate(
    model: Decoder,
    tokens: list[int],
    max_new_tokens: int,
    stop_ids: Collection[int],
    pick: Callable[[Tensor], int],
) -> Iterator[int]:
    was_training = model.training
    model.eval()
    try:
        cache = KVCache(model.architecture.num_layers, len(tokens) + max_new_tokens)
        for _ in range(max_new_tokens):
            token = pick(_next_logits(model, tokens, cache))
            if token in stop_ids:
                return
            yield token
            tokens = [token]
    finally:
        model.train(was_training)


def _next_logits(model: Decoder, tokens: list[int], cache: KVCache) -> Tensor:
    """Compute the logits `[v]` of what follows the cache and these tokens."""
    batch = torch.tensor([tokens], device=model.head_weight.device)  # [1, s]
    hidden = model.hidden(batch, cache=cache)  # [1, s, d]
    logits = model.logits(hidden[0, -1])
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _pick(logits: Tensor, *, temperature: float, top_k: int | None, generator: torch.Generator | None) -> int:
    """Choose a token by its logits `[v]`."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        least = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < least, float("-inf"))
    shares = torch.softmax(logits / temperature, dim=-1)  # [v]
    return int(torch.multinomial(shares, 1, generator=generator))
