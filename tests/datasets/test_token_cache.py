"""Cached rows match newly encoded rows, are not encoded again, and are never out of date."""

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.models.tiny import tiny_tokenizer, tokenizer_config, write
from torchtune.config import lazy
from torchtune.data import Batches, ChatTemplate, Example
from torchtune.datasets import (
    ChatDataset,
    ConcatDataset,
    InstructDataset,
    PreferenceDataset,
    TextCompletionDataset,
)
from torchtune.tokenizers import HFTokenizer


class CountingTokenizer(ByteTokenizer):
    """A tokenizer that counts the texts that it encodes."""

    calls = 0

    def __init__(self, name: str = "a") -> None:
        super().__init__()
        self.name = name

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        CountingTokenizer.calls += 1
        return super().encode(text, add_bos=add_bos, add_eos=add_eos)

    def encode_template(self, text: str, plain: Any = ()) -> list[int]:
        CountingTokenizer.calls += 1
        return super().encode_template(text, plain)

    def fingerprint(self) -> str:
        return self.name


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b 🎉"}]
ROWS = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(100)]
KINDS: dict[str, Any] = {
    "instruct": lazy(InstructDataset, source=ROWS),
    "alpaca": lazy(InstructDataset, source=ROWS, template="alpaca"),
    "chat": lazy(ChatDataset, source=[{"messages": TURNS}] * 2),
    "text": lazy(TextCompletionDataset, source=[{"text": "abcdefgh" * 9}, {"text": "x"}], max_seq_len=10),
    "preference": lazy(PreferenceDataset, source=[{"prompt": "a", "chosen": "b", "rejected": "c"}]),
}


def read(dataset: Any, folder: Path | None) -> tuple[list[Any], int]:
    """Read all rows, and return them with the number of texts that were encoded."""
    if folder is not None:
        dataset.use_cache(str(folder))
    before = CountingTokenizer.calls
    rows = [dataset[i] for i in range(len(dataset))]
    if folder is not None:
        dataset._cache.flush()
    return rows, CountingTokenizer.calls - before


@pytest.mark.parametrize("kind", KINDS)
def test_cached_rows_match_encoded_rows_and_are_not_encoded_again(kind: str, tmp_path: Path) -> None:
    plain, n = read(KINDS[kind](CountingTokenizer()), None)
    assert n > 0
    assert read(KINDS[kind](CountingTokenizer()), tmp_path)[0] == plain
    assert read(KINDS[kind](CountingTokenizer()), tmp_path) == (plain, 0)
    assert read(pickle.loads(pickle.dumps(KINDS[kind](CountingTokenizer()))), tmp_path) == (plain, 0)


def test_a_change_that_affects_the_tokens_is_a_cache_miss(tmp_path: Path) -> None:
    read(InstructDataset(CountingTokenizer(), ROWS), tmp_path)
    changed: list[Any] = [
        InstructDataset(CountingTokenizer("b"), ROWS),
        InstructDataset(CountingTokenizer(), ROWS, train_on_input=True),
        InstructDataset(CountingTokenizer(), ROWS, system="Be kind."),
        InstructDataset(CountingTokenizer(), ROWS, max_seq_len=30),
        InstructDataset(CountingTokenizer(), [{**row, "output": "No."} for row in ROWS]),
    ]
    for dataset in changed:
        plain, n = read(dataset, None)
        assert read(dataset, tmp_path) == (plain, n), "all rows were encoded"
    reordered, n = read(
        InstructDataset(CountingTokenizer(), [*reversed(ROWS), {"instruction": "New.", "output": "1"}]),
        tmp_path,
    )
    assert n == 1, "only the new row was encoded"
    assert len(reordered) == 101


def test_a_damaged_or_unfinished_cache_is_encoded_again(tmp_path: Path) -> None:
    plain, n = read(InstructDataset(CountingTokenizer(), ROWS), tmp_path)
    (rows,) = tmp_path.glob("*.rows")
    (index,) = tmp_path.glob("*.index")
    records, entries = rows.read_bytes(), index.read_bytes()
    damage = {
        "truncated records": (records[: len(records) // 2], entries),
        "truncated index": (records, entries[: len(entries) // 2 + 5]),
        "flipped": (bytes(b ^ 1 if i % 97 == 0 else b for i, b in enumerate(records)), entries),
        "empty": (b"", b""),
        "no rows": (None, entries),
    }
    for name, (content, index_content) in damage.items():
        for file in tmp_path.iterdir():
            file.unlink()
        if content is not None:
            rows.write_bytes(content)
        index.write_bytes(index_content)
        encoded, n_encoded = read(InstructDataset(CountingTokenizer(), ROWS), tmp_path)
        assert encoded == plain, name
        assert 0 < n_encoded <= n, name
        assert read(InstructDataset(CountingTokenizer(), ROWS), tmp_path) == (plain, 0), name


@pytest.mark.slow
def test_multiple_processes_share_a_cache_folder(tmp_path: Path) -> None:
    def batches(workers: int) -> Batches[Example]:
        dataset = InstructDataset(ByteTokenizer(), ROWS * 20)
        dataset.tokenizer = CountingTokenizer()
        dataset.use_cache(str(tmp_path))
        return Batches(dataset, 4, shuffle=True, seed=1, pad_id=0, window=64, workers=workers)

    with batches(2) as prefetched, batches(0) as unprefetched:
        for _ in range(500):
            assert next(prefetched).tokens.equal(next(unprefetched).tokens)


def test_a_full_disk_disables_the_cache_without_stopping_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = InstructDataset(CountingTokenizer(), ROWS)
    dataset.use_cache(str(tmp_path))
    assert dataset._cache is not None
    dataset[0]
    writer = dataset._cache._writer
    assert writer is not None
    os.close(writer._rows.fileno())
    full = os.open("/dev/full", os.O_WRONLY)
    assert full == writer._rows.fileno()
    with caplog.at_level(logging.WARNING):
        rows = [dataset[i] for i in range(100)]
    assert rows == read(InstructDataset(CountingTokenizer(), ROWS), None)[0]
    assert "rows are no longer cached: [Errno 28] No space left on device" in caplog.text
    writer._pending = []


def test_concatenated_datasets_are_cached_and_a_missing_fingerprint_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    concatenated = ConcatDataset(CountingTokenizer(), [KINDS["instruct"], KINDS["text"]])
    concatenated.use_cache(str(tmp_path))
    assert all(part._cache is not None for part in concatenated._parts)  # type: ignore[attr-defined]  # all parts are RowDatasets
    without_fingerprint = InstructDataset(ByteTokenizer(), ROWS)
    without_fingerprint.use_cache(str(tmp_path))
    assert without_fingerprint._cache is None
    assert "rows are not cached: the tokenizer ByteTokenizer has no fingerprint method" in caplog.text


def test_the_fingerprint_of_a_real_tokenizer_depends_on_its_files(tmp_path: Path) -> None:
    config = json.dumps(tokenizer_config())
    write(tmp_path, tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config)
    first = HFTokenizer(str(tmp_path)).fingerprint()
    assert HFTokenizer(str(tmp_path)).fingerprint() == first
    write(tmp_path, chat_template__jinja="{{ 1 }}")
    tokenizer = HFTokenizer(str(tmp_path))
    assert tokenizer.fingerprint() != first
    assert isinstance(tokenizer.chat_template, ChatTemplate)
