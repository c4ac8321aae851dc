"""Several ranks write the files of a model together, and none of them ever holds the whole model."""

import filecmp
from pathlib import Path

import pytest
import torch

from tests.training.run_ranks import run_ranks
from tests.training.sharded_save_ranks import MIB, MODELS, SHARD_BYTES, SHARDINGS, build
from tests.training.tiny import SINGLE_RANK
from torchtune.formats import load_hf_weights, save_hf_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run four ranks over gloo, and return the folder with the models that they have saved."""
    return run_ranks(tmp_path_factory, "sharded_save_ranks", 4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_four_ranks_write_the_same_files_as_one_rank(
    folder: Path, tmp_path: Path, name: str, sharding: str, dtype: torch.dtype | None
) -> None:
    model = build(name, SINGLE_RANK)
    save_hf_folder(model, tmp_path / "one", dtype=dtype, shard_bytes=SHARD_BYTES)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    four = folder / f"{name} {sharding} {dtype}"
    assert sorted(path.name for path in four.iterdir()) == names
    assert sum(name.endswith(".safetensors") for name in names) > 4
    assert filecmp.cmpfiles(tmp_path / "one", four, names, shallow=False) == (names, [], [])
    loaded = build(name, SINGLE_RANK)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.fill_(0)
    load_hf_weights(loaded, four)
    for (key, actual), expected in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(actual, expected.to(dtype or expected.dtype).float()), key


def test_saving_takes_no_more_memory_on_any_rank_than_the_largest_tensor(folder: Path) -> None:
    results: list[tuple[int, int]] = torch.load(folder / "results.pt")
    files = [path.stat().st_size for path in (folder / "large").glob("*.safetensors")]
    assert len(results) == 4
    for growth, largest in results:
        assert (
            sum(files) > largest + 128 * MIB
        )  # so that a rank that held the whole model would exceed the limit
        assert growth <= largest + 64 * MIB
