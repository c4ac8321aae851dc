"""Rows that hold several documents."""

import pytest
import torch

from tests.modules.reference import TINY
from torchtune.modules import Decoder, Documents, KVCache


def test_spans_positions_and_mask_say_where_documents_stand() -> None:
    documents = Documents.of_lengths([[2, 3], [4, 1]])
    assert [span[:3] for span in documents.spans] == [(0, 0, 2), (0, 2, 5), (1, 0, 4), (1, 4, 5)]
    assert documents.positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert documents.mask(None)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert documents.mask(2)[1, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_documents_that_begin_alike_see_that_beginning() -> None:
    lengths = [[3, 2, 1], [4, 2]]
    documents = Documents.of_lengths(lengths, [[(0, 0), (0, 2), (0, 2)], [(0, 0)] * 2])
    assert documents.positions.tolist() == [[0, 1, 2, 2, 3, 2], [0, 1, 2, 3, 0, 1]]
    assert documents.longest == 4
    assert documents.mask(None)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert torch.equal(documents.mask(None)[1], Documents.of_lengths(lengths).mask(None)[1])
    assert documents.mask(3)[0, 0].int().tolist()[3:] == [
        [1, 1, 0, 1, 0, 0],
        [0, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    seen = documents.mask_of_one(2, 2, 3, torch.device("cpu"))
    assert seen is not None
    assert seen[0, 0].int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert seen is documents.mask_of_one(2, 2, 3, torch.device("cpu"))
    assert documents.mask_of_one(4, 0, 4, torch.device("cpu")) is None


def test_each_document_sees_the_prefix_that_it_continues() -> None:
    """Two pairs in a row: two answers to a prompt of two tokens, and two to one of a single token."""
    documents = Documents.of_lengths([[3, 1, 2, 2]], [[(0, 0), (0, 2), (0, 0), (4, 1)]])
    assert documents.positions.tolist() == [[0, 1, 2, 2, 0, 1, 1, 2]]
    assert documents.longest == 3
    assert documents.mask(None)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 1, 1],
    ]
    assert documents.mask(2)[0, 0].int().tolist()[3:] == [
        [0, 1, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    "prefixes",
    [
        [(0, 0), (0, 4), (0, 0)],
        [(0, 0), (1, 1), (0, 0)],
        [(0, 1), (0, 0), (0, 0)],
        [(0, 0), (0, -1), (0, 0)],
        [(0, 0), (0, 2), (3, 1)],
    ],
    ids=["too long", "not a beginning", "not earlier", "negative", "of a document with a prefix"],
)
def test_a_prefix_that_is_not_the_beginning_of_a_document_is_refused(prefixes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="is not the beginning of an earlier document"):
        Documents.of_lengths([[3, 2, 1]], [prefixes])


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 0, 2), (0, 3, 4)],
        [(0, 0, 2), (0, 2, 2)],
        [(0, 1, 2)],
        [(0, 0, 2), (1, 0, 3)],
        [(0, 0, 2), (2, 0, 2)],
    ],
    ids=["a gap", "an empty one", "a late start", "rows of unequal length", "a row left out"],
)
def test_documents_that_leave_positions_out_are_refused(spans: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match="must cover every position"):
        Documents([(*span, 0, 0) for span in spans])


def test_cache_and_documents_exclude_each_other() -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="a cache holds one document a row"):
        Decoder(TINY)(tokens, cache=KVCache(TINY.num_layers, 8), documents=Documents.of_lengths([[3]]))
