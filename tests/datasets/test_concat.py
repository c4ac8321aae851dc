"""Datasets can be concatenated with weights, in Python and from a config."""

from collections import Counter
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.config import instantiate, lazy
from torchtune.data import Example
from torchtune.datasets import ConcatDataset, TextCompletionDataset

TOKENIZER = ByteTokenizer()


def part(letters: str) -> Any:
    return lazy(TextCompletionDataset, source=[{"text": letter} for letter in letters], add_eos=False)


def texts(dataset: ConcatDataset) -> str:
    joined = ""
    for i in range(len(dataset)):
        examples = dataset[i]
        assert isinstance(examples, list)
        (example,) = examples
        assert isinstance(example, Example)
        joined += TOKENIZER.decode(example.tokens[1:])
    return joined


def test_an_epoch_contains_every_row_of_each_dataset_once() -> None:
    dataset = ConcatDataset(TOKENIZER, [part("abc"), part("xy")])
    assert Counter(texts(dataset)) == Counter("abcxy")
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize(("weight", "number"), [(2, 20), (2.5, 25), (0.5, 5), (0.01, 1)])
def test_weights_set_the_number_of_repetitions_per_epoch(weight: float, number: int) -> None:
    counts = Counter(texts(ConcatDataset(TOKENIZER, [part("abcdefghij"), part("x")], weights=[weight, 3])))
    assert counts.pop("x") == 3
    assert counts.total() == number
    assert max(counts.values()) - min(counts.values() if weight >= 1 else [1]) <= 1


def test_a_configured_concatenation_passes_the_tokenizer_to_its_datasets() -> None:
    config = {
        "_component_": "torchtune.datasets.ConcatDataset",
        "datasets": [{"_component_": "torchtune.datasets.TextCompletionDataset", "source": [{"text": "ab"}]}],
    }
    dataset = instantiate(config, TOKENIZER)
    assert len(dataset) == 1
    concatenated = instantiate(lazy(ConcatDataset, datasets=[part("ab"), part("c")]), TOKENIZER)
    assert sorted(texts(concatenated)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "weights: expected 2 weights, one for each dataset, got 1"),
        ([1.0, 0.0], "weights: expected numbers above 0, got 0.0"),
    ],
)
def test_invalid_weights_raise(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConcatDataset(TOKENIZER, [part("a"), part("b")], weights=weights)
    with pytest.raises(ValueError, match="datasets: expected at least one"):
        ConcatDataset(TOKENIZER, [])
