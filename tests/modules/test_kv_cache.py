"""Tokens passed in several calls with a cache have the same logits as the full sequence."""

import pytest
import torch

from tests.modules.reference import TINY
from tests.modules.test_decoder import random_decoder
from tests.tolerance import FLOAT64, assert_near
from torchtune.modules import KVCache, LayerCache, _kv_cache


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("pieces", [(8,), (7, 1), (3, 4, 1), (1,) * 8])
def test_logits_do_not_depend_on_the_split_of_a_sequence(
    pieces: tuple[int, ...], *, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kv_cache, "FIRST_SLOTS", 2)  # smaller than the sequence
    model = random_decoder()
    tokens = torch.randint(TINY.vocab_size, (2, 8))
    cache = KVCache(TINY.num_layers, max_seq_len=8, grows=grows)
    logits = torch.cat(
        [model(piece, cache=cache) for piece in torch.split(tokens, list(pieces), dim=1)], dim=1
    )
    assert_near(logits, model(tokens), FLOAT64)
    assert cache.length == 8


@pytest.mark.parametrize("grows", [False, True])
def test_rows_of_unequal_length_continue_at_their_positions(
    *, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kv_cache, "FIRST_SLOTS", 2)
    model = random_decoder()
    tokens = torch.randint(TINY.vocab_size, (3, 8))
    expected, lengths = model(tokens), torch.tensor([5, 2, 3])
    cache = KVCache(TINY.num_layers, max_seq_len=8, grows=grows)
    prompts = tokens[:, :5].where(torch.arange(5) < lengths[:, None], 0)  # padded on the right
    model(prompts, positions=torch.arange(5)[None], cache=cache)
    rows = torch.arange(3)
    for step in range(3):
        positions = lengths + step
        logits = model(tokens[rows, positions][:, None], positions=positions[:, None], cache=cache)
        assert_near(logits[:, 0], expected[rows, positions], FLOAT64)


def test_exceeding_a_cache_raises() -> None:
    model = random_decoder()
    cache = KVCache(TINY.num_layers, max_seq_len=4)
    model(torch.zeros(1, 4, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="5 tokens exceeds max_seq_len = 4 of the cache"):
        model(torch.zeros(1, 1, dtype=torch.long), cache=cache)


def test_growing_cache_has_the_same_contents_as_a_static_cache() -> None:
    static, growing = LayerCache(2000), LayerCache(2000, grows=True)
    slots = []
    # Fill the first 256 slots, add one token, grow past the next doubling, and fill the cache.
    for count in [1, 200, 55, 1, 700, 1043]:
        keys, values = torch.randn(2, 2, 3, count, 4)  # [2, 3, count, 4] each
        positions = torch.stack([torch.arange(count), torch.arange(count).flip(0)]) + static.length
        for actual, expected in zip(
            growing.update(keys, values, positions), static.update(keys, values, positions), strict=True
        ):
            assert torch.equal(actual, expected)
        assert growing._keys is not None
        slots.append(growing._keys.shape[2])
    assert slots == [256, 256, 256, 512, 1024, 2000]


def test_a_short_growing_cache_uses_little_memory() -> None:
    memory = []
    for grows in (False, True):
        cache = KVCache(TINY.num_layers, max_seq_len=4096, grows=grows)
        random_decoder()(torch.zeros(1, 4, dtype=torch.long), cache=cache)
        tensors = [t for layer in cache.layers for t in (layer._keys, layer._values) if t is not None]
        memory.append(sum(t.untyped_storage().nbytes() for t in tensors))
    assert memory[0] == memory[1] * 4096 // 256 > 0


def test_growing_cache_never_exceeds_its_limit() -> None:
    model = random_decoder()
    cache = KVCache(TINY.num_layers, max_seq_len=4, grows=True)
    model(torch.zeros(1, 4, dtype=torch.long), cache=cache)
    assert cache.layers[0]._keys is not None
    assert cache.layers[0]._keys.shape[2] == 4
    with pytest.raises(ValueError, match="5 tokens exceeds max_seq_len = 4 of the cache"):
        model(torch.zeros(1, 1, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("grows", [False, True])
def test_generation_continues_unchanged_for_kept_sequences(*, grows: bool) -> None:
    model = random_decoder()
    tokens, lengths = torch.randint(TINY.vocab_size, (3, 8)), torch.tensor([5, 2, 3])
    expected = model(tokens)
    cache = KVCache(TINY.num_layers, max_seq_len=8, grows=grows)
    model(tokens[:, :5], positions=torch.arange(5)[None], cache=cache)
    rows = torch.tensor([2, 1])
    cache.keep(rows, length=3)
    assert cache.length == 3, "slots that only the longest sequence needed must be dropped"
    for step in range(5):
        positions = lengths[rows] + step
        logits = model(tokens[rows, positions][:, None], positions=positions[:, None], cache=cache)
        assert_near(logits[:, 0], expected[rows, positions], FLOAT64)
