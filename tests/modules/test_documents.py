"""Packs that contain multiple documents."""

import pytest
import torch

from tests.modules.reference import TINY
from torchtune.modules import Decoder, Documents, KVCache


def test_spans_positions_and_masks_are_derived_from_lengths() -> None:
    documents = Documents.from_lengths([[2, 3], [4, 1]])
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


def test_documents_may_share_a_prefix() -> None:
    lengths = [[3, 2, 1], [4, 2]]
    documents = Documents.from_lengths(lengths, [[(0, 0), (0, 2), (0, 2)], [(0, 0)] * 2])
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
    assert torch.equal(documents.mask(None)[1], Documents.from_lengths(lengths).mask(None)[1])
    assert documents.mask(3)[0, 0].int().tolist()[3:] == [
        [1, 1, 0, 1, 0, 0],
        [0, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    mask = documents.document_mask(2, 2, 3, torch.device("cpu"))
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert mask is documents.document_mask(2, 2, 3, torch.device("cpu"))
    assert documents.document_mask(4, 0, 4, torch.device("cpu")) is None


def test_each_document_attends_to_its_prefix() -> None:
    """A row has two pairs: two answers to a prompt of two tokens, and two answers to a prompt of one token."""
    documents = Documents.from_lengths([[3, 1, 2, 2]], [[(0, 0), (0, 2), (0, 0), (4, 1)]])
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
def test_prefix_that_does_not_begin_an_earlier_document_is_rejected(prefixes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="must be the beginning of an earlier document"):
        Documents.from_lengths([[3, 2, 1]], [prefixes])


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 0, 2), (0, 3, 4)],
        [(0, 0, 2), (0, 2, 2)],
        [(0, 1, 2)],
        [(0, 0, 2), (1, 0, 3)],
        [(0, 0, 2), (2, 0, 2)],
    ],
    ids=["a gap", "an empty document", "a late start", "rows of unequal length", "a missing row"],
)
def test_documents_that_do_not_cover_every_position_are_rejected(spans: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match="must cover every position"):
        Documents([(*span, 0, 0) for span in spans])


def test_cache_with_documents_is_rejected() -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="a cache supports one document per row"):
        Decoder(TINY)(tokens, cache=KVCache(TINY.num_layers, 8), documents=Documents.from_lengths([[3]]))
