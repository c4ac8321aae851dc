"""Rows that hold several documents."""

import pytest
import torch

from tests.modules.reference import TINY
from torchtune.modules import Decoder, Documents, KVCache


def test_spans_positions_and_mask_say_where_documents_stand() -> None:
    documents = Documents(torch.tensor([[0, 0, 1, 1, 1], [3, 3, 3, 3, 7]]))
    assert documents.spans == [(0, 0, 2), (0, 2, 5), (1, 0, 4), (1, 4, 5)]
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
    documents = Documents(torch.tensor([[0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 1, 1]]), (2, 0))
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
    assert torch.equal(documents.mask(None)[1], Documents(documents.ids).mask(None)[1])
    assert documents.mask(3)[0, 0].int().tolist()[3:] == [
        [1, 1, 0, 1, 0, 0],
        [0, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    seen = documents.mask_of_one(2, 2, 3)
    assert seen is not None
    assert seen[0, 0].int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert seen is documents.mask_of_one(2, 2, 3)
    assert documents.mask_of_one(4, 0, 4) is None


@pytest.mark.parametrize("shared", [(4,), (-1,), (1, 1)])
def test_shared_tokens_that_are_not_there_are_refused(shared: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shared: "):
        Documents(torch.tensor([[0, 0, 0, 1]]), shared)


def test_document_in_two_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="a document stands in one piece"):
        Documents(torch.tensor([[0, 1, 0]]))


def test_cache_and_documents_exclude_each_other() -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="a cache holds one document a row"):
        Decoder(TINY)(tokens, cache=KVCache(TINY.num_layers, 8), documents=Documents(tokens))
