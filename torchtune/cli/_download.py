"""`tune download`: a model from the Hugging Face hub, resumable."""

import sys
from collections.abc import Sequence

from torchtune.config import ConfigError, Mistake

HELP = """\
usage: tune download <repository> --output-dir D [--revision R]

Fetches a model's configuration, tokenizer and safetensors from the Hugging Face
hub. Interrupted, it goes on where it was. Gated models need HF_TOKEN in the
environment.

  tune download HuggingFaceTB/SmolLM2-135M-Instruct --output-dir models/SmolLM2-135M-Instruct
"""

PATTERNS = ["*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]


def main(argv: Sequence[str]) -> int:
    """Download a model."""
    from torchtune.cli._call import read_call

    call = read_call(argv, valued=("--output-dir", "--revision"))
    if call.wants_help:
        sys.stdout.write(HELP)
        return 0
    folder = call.flags.get("--output-dir")
    if not call.recipe or not folder or call.words or call.mistakes:
        sys.stderr.write(f"tune download takes a repository and --output-dir\n{HELP}")
        return 2
    fetch(call.recipe, folder, call.flags.get("--revision"))
    sys.stdout.write(f"wrote {folder}\n")
    return 0


def fetch(repository: str, folder: str, revision: str | None = None) -> None:
    """Fetch a repository's model files into a folder.

    Raises:
        ConfigError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=PATTERNS)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            [Mistake("", repository, f"cannot be fetched: {reason}")], "the download"
        ) from error
