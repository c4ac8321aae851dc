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


def test_document_in_two_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="a document stands in one piece"):
        Documents(torch.tensor([[0, 1, 0]]))


def test_cache_and_documents_exclude_each_other() -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="a cache holds one document a row"):
        Decoder(TINY)(tokens, cache=KVCache(TINY.num_layers, 8), documents=Documents(tokens))
