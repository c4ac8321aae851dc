"""With several ranks, Python's garbage is collected at the same steps on all of them."""

import gc
import weakref

import pytest
from attrs import evolve

from tests.training.tiny import SINGLE_RANK
from torchtune.distributed import GarbageCollection

TWO_RANKS = evolve(SINGLE_RANK, size=2)


class Cycle:
    """An object that only the garbage collector can free."""

    def __init__(self) -> None:
        self.cycle = self


def test_garbage_is_collected_only_at_multiples_of_the_interval() -> None:
    with GarbageCollection(TWO_RANKS) as collection:
        assert not gc.isenabled()
        reference = weakref.ref(Cycle())
        for step in range(1, 50):
            collection.collect_if_due(step)
        assert reference() is not None
        collection.collect_if_due(50)
        assert reference() is None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_automatic_collection_is_restored_after_an_error() -> None:
    with pytest.raises(KeyError), GarbageCollection(TWO_RANKS):
        raise KeyError
    assert gc.isenabled()


def test_a_single_rank_collects_automatically() -> None:
    with GarbageCollection(SINGLE_RANK):
        assert gc.isenabled()
        assert gc.get_freeze_count() == 0


def test_disabled_collection_stays_disabled() -> None:
    gc.disable()
    try:
        with GarbageCollection(TWO_RANKS):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
