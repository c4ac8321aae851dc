"""Tokens given piece by piece, with a cache, get the logits of a whole sequence."""

import pytest
import torch

from tests.modules.reference import TINY
from tests.modules.test_decoder import random_decoder
from torchtune.modules import KVCache


@pytest.mark.parametrize("pieces", [(8,), (7, 1), (3, 4, 1), (1,) * 8])
def test_logits_do_not_depend_on_how_a_sequence_is_cut(pieces: tuple[int, ...]) -> None:
    model = random_decoder()
    tokens = torch.randint(TINY.vocab_size, (2, 8))
    cache = KVCache(TINY.num_layers, max_seq_len=8)
    logits = torch.cat(
        [model(piece, cache=cache) for piece in torch.split(tokens, list(pieces), dim=1)], dim=1
    )
    torch.testing.assert_close(logits, model(tokens))
    assert cache.length == 8


def test_rows_of_unequal_length_go_on_each_at_its_own_position() -> None:
    model = random_decoder()
    tokens = torch.randint(TINY.vocab_size, (3, 8))
    expected, lengths = model(tokens), torch.tensor([5, 2, 3])
    cache = KVCache(TINY.num_layers, max_seq_len=8)
    prompts = tokens[:, :5].where(torch.arange(5) < lengths[:, None], 0)  # Padded on the right.
    model(prompts, positions=torch.arange(5)[None], cache=cache)
    rows = torch.arange(3)
    for step in range(3):
        at = lengths + step
        logits = model(tokens[rows, at][:, None], positions=at[:, None], cache=cache)
        torch.testing.assert_close(logits[:, 0], expected[rows, at])


def test_a_full_cache_is_refused() -> None:
    model = random_decoder()
    cache = KVCache(TINY.num_layers, max_seq_len=4)
    model(torch.zeros(1, 4, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="5 tokens is longer than max_seq_len = 4 of the cache"):
        model(torch.zeros(1, 1, dtype=torch.long), cache=cache)
