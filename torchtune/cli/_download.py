"""`tune download`: download a model from the Hugging Face hub."""

import glob
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torchtune._pluralize import pluralize
from torchtune.cli._command import MANY, Argument, Command, Form
from torchtune.config import ConfigError
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import print_note

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

OUTPUT_DIR = Option("--output-dir", value="FOLDER", required=True)
REVISION = Option("--revision", "branch, tag or commit (default: main)", "R")
INCLUDE = Option(
    "--include", "download the matching files instead of the files listed above", "PATTERN", repeats=True
)
IGNORE = Option("--ignore", "skip the matching files, even if they match --include", "PATTERN", repeats=True)

TEXTS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Files of the configuration and the tokenizer."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Patterns of weight files; only the first pattern with a match in the repository is used."""
OTHER_FORMATS = ("*/*", "consolidated*")
"""Copies of the weights in the formats of other programs: original/, onnx/, Mistral's consolidated file."""
PARTIAL_FILES = "*.????????.incomplete"
"""Partial files in a folder's .cache; huggingface_hub 2 never reuses their names."""
ABANDONED_SECONDS = 600.0
"""A partial file without writes for this time is assumed to be left over from a killed download."""
TIMEOUT_SECONDS = 30.0
"""Time limit for the hub's first response; huggingface_hub itself sets no limit."""
COPY_HINT = "or copy the folder from a machine that has it"


class Request(NamedTuple):
    """The files to download, and the folder to write them to."""

    repository: str
    folder: str
    revision: str | None
    """None: the default branch."""
    include: Sequence[str]
    """Patterns; empty: the configuration, tokenizer and weights of the model."""
    ignore: Sequence[str]


def run(call: Call) -> int:
    """Download a model."""
    repository, *unexpected = call.arguments
    if unexpected:
        hint = "put each pattern in quotes, after --include or --ignore"
        raise ConfigError.of_argument(unexpected[0], "unexpected argument", hint)
    folder = call.value(OUTPUT_DIR) or ""
    request = Request(repository, folder, call.value(REVISION), call.values(INCLUDE), call.values(IGNORE))
    try:
        sizes = download(request)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; run the same command again to download the incomplete files\n")
        return 1
    amount = f"{pluralize(len(sizes), 'file')} ({_bytes(sum(sizes.values()))})"
    sys.stdout.write(f"wrote {amount} to {folder}\n")
    if "config.json" in sizes:
        directory = shlex.quote(folder)
        sys.stdout.write(f"next: tune validate <recipe> --config <config> model_directory={directory}\n")
    return 0


def download(request: Request) -> dict[str, int]:
    """Download a repository's files into a folder.

    Returns:
        The size in bytes of each requested file, including files that were already in the folder.

    Raises:
        ValueError: The repository's name is malformed, or the folder cannot be written.
        LookupError: There is no such repository, revision or file.
        PermissionError: The hub requires an accepted licence or a different token, or HF_TOKEN is malformed.
        ConnectionError: The hub cannot be reached.
        OSError: The hub returned an error; a retry may succeed.
    """
    from huggingface_hub import HfApi, get_token, snapshot_download

    token = get_token() or ""
    if not (
        token.isascii() and token.isprintable()
    ):  # otherwise, the error message about the header would contain the token
        raise PermissionError("the token in HF_TOKEN contains invalid characters; copy it again")
    with _plain_errors(request):
        info = HfApi().model_info(
            request.repository, revision=request.revision, files_metadata=True, timeout=TIMEOUT_SECONDS
        )
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    chosen_sizes = {name: sizes[name] for name in choose(request, list(sizes))}
    folder = Path(request.folder)
    with _plain_errors(request), _bars() as bars:
        _prepare_folder(folder, chosen_sizes)
        snapshot_download(
            request.repository,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=[glob.escape(name) for name in chosen_sizes],
            tqdm_class=bars,
        )
    # If the hub stops responding and the folder is not empty, snapshot_download only warns.
    incomplete = _incomplete_files(folder, chosen_sizes)
    if incomplete:
        raise OSError(f"incomplete download: {_first_names(incomplete)}; try again later")
    return {name: (folder / name).stat().st_size for name in chosen_sizes}


def choose(request: Request, names: Sequence[str]) -> list[str]:
    """Return the files of a repository to download.

    Raises:
        LookupError: A pattern to include matches no file, or all matching files are ignored.
    """
    include, ignore = request.include, request.ignore
    for pattern in include:
        if not _matching(names, [pattern]):
            raise LookupError(
                f"no file in {request.repository} matches {pattern!r}; its files: {_first_names(names)}"
            )
    if not include:
        candidates = [name for name in names if name not in _matching(names, OTHER_FORMATS)]
        weights = [pattern for pattern in WEIGHTS if _matching(candidates, [pattern])]
        if not weights:
            print_note(
                f"{request.repository} has no {' or '.join(WEIGHTS)}; select other files with --include:"
                f" {_first_names(names)}"
            )
        include, ignore = [*TEXTS, *weights[:1]], [*ignore, *OTHER_FORMATS]
    ignored = set(_matching(names, ignore))
    chosen = [name for name in _matching(names, include) if name not in ignored]
    if not chosen:
        raise LookupError(
            f"no file in {request.repository} is selected; select files with --include: {_first_names(names)}"
        )
    return chosen


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match any pattern; a pattern that ends in `/` matches everything in that folder."""
    globs = [pattern + "*" if pattern.endswith("/") else pattern for pattern in patterns]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in globs)]


def _first_names(names: Sequence[str], count: int = 10) -> str:
    """Join the first names, followed by the number of remaining names."""
    remainder = [f"{len(names) - count} more"] if len(names) > count else []
    return ", ".join([*names[:count], *remainder]) or "none"


def _incomplete_files(folder: Path, sizes: Mapping[str, int | None]) -> list[str]:
    """Return the names of the files that are missing from a folder or have the wrong size.

    Args:
        folder: The folder.
        sizes: The size in bytes of each file; None if the hub does not report it.
    """
    local_sizes = {name: (folder / name).stat().st_size for name in sizes if (folder / name).is_file()}
    return [
        name
        for name, size in sizes.items()
        if name not in local_sizes or size not in (None, local_sizes[name])
    ]


def _prepare_folder(folder: Path, sizes: Mapping[str, int | None]) -> None:
    """Create a folder, and check that its disk has room for the missing files.

    Raises:
        ValueError: The folder is a file, or its disk is too full.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir: {folder} is a file; expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for partial in (folder / ".cache").rglob(PARTIAL_FILES):
        if partial.stat().st_mtime < time.time() - ABANDONED_SECONDS:
            partial.unlink()
    needed = sum(sizes[name] or 0 for name in _incomplete_files(folder, sizes))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"{folder}: not enough disk space; {_bytes(needed)} needed, {_bytes(free)} free")


def _bytes(count: int) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(count, "B")


@contextmanager
def _bars() -> Iterator[Any]:
    """Yield a class of progress bars that are only shown on a terminal and are cleared at the end.

    huggingface_hub leaves its bars open; they would overwrite later output.
    """
    from huggingface_hub import constants
    from tqdm import tqdm

    bars = []
    is_hidden = bool(constants.HF_HUB_DISABLE_PROGRESS_BARS) or not sys.stderr.isatty()

    class Bar(tqdm):  # type: ignore[type-arg]  # generic only for type checkers
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": is_hidden, "leave": False})
            bars.append(self)

    try:
        yield Bar
    finally:
        for bar in reversed(bars):
            bar.close()


@contextmanager
def _plain_errors(request: Request) -> Iterator[None]:
    """Translate the exceptions of huggingface_hub into messages of `tune download`."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        translated = _translated(cause or error, request)
        if translated is None:
            raise
        raise translated from error


def _translated(error: BaseException, request: Request) -> Exception | None:
    """Return the exception to raise instead of an error; None to raise the error itself."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, HFValidationError):
        return ValueError(f"{request.repository!r} is not a repository name; expected <owner>/<name>")
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(
            f"HF_HUB_OFFLINE is set, so nothing is downloaded; unset the variable, {COPY_HINT}"
        )
    if isinstance(error, HfHubHTTPError):
        return _http_error(error, request)
    if isinstance(
        error, HfHubHTTPError.__bases__[0]
    ):  # the error of the HTTP library, which depends on the version of huggingface_hub
        return ConnectionError(
            f"cannot reach {constants.ENDPOINT} ({first_line}); run the same command when the network is available,"
            f" {COPY_HINT}"
        )
    if isinstance(error, json.JSONDecodeError):
        return ConnectionError(
            f"{constants.ENDPOINT} does not respond like the Hugging Face hub; check HF_ENDPOINT, and check whether"
            " the network requires a login"
        )
    if isinstance(error, OSError):
        if error.strerror:
            return ValueError(f"{request.folder} cannot be written: {error.strerror}")
        return OSError(f"{first_line}; try again later")
    return None


def _http_error(error: "HfHubHTTPError", request: Request) -> Exception:
    """Return the exception for an error response of the hub."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = request.repository
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{name} is gated: accept its licence on https://huggingface.co/{name}, and set HF_TOKEN to a token of the"
            " same account"
        )
    is_anonymous = status == HTTPStatus.UNAUTHORIZED and get_token() is None
    if isinstance(error, RepositoryNotFoundError) or is_anonymous:
        return LookupError(
            f"{name} is not on the hub, or is private; for a private repository, set HF_TOKEN to a token with read"
            " access"
        )
    if isinstance(error, RevisionNotFoundError):
        return LookupError(f"{name} has no revision {request.revision!r}")
    if status == HTTPStatus.UNAUTHORIZED:
        return PermissionError(
            "the hub does not recognize the token in HF_TOKEN; create a new one on"
            " https://huggingface.co/settings/tokens"
        )
    if status == HTTPStatus.FORBIDDEN:
        default = "the token in HF_TOKEN has no read access"
        reason = next(iter((error.server_message or "").splitlines()), default)
        return PermissionError(f"the hub denies access to {name}: {reason}")
    return OSError(f"the hub responded with {status} {error.response.reason_phrase}; try again later")


COMMAND = Command(
    "download",
    run,
    forms=(Form((Argument("<owner/name>", max_count=MANY),), (OUTPUT_DIR, REVISION, INCLUDE, IGNORE)),),
    expects="a repository and --output-dir",
    description="""\
Downloads a model's configuration, tokenizer and weights from the Hugging Face
hub. The weights are *.safetensors or, if there are no such files,
pytorch_model*.bin. Subfolders are skipped.""",
    notes="""\
Quote each pattern, and pass it with its own --include or --ignore; `*` also
matches `/`. After an interruption, the same command downloads the incomplete
files again from the start. Gated and private models require HF_TOKEN in the
environment.""",
    examples=(
        "tune download HuggingFaceTB/SmolLM2-135M-Instruct --output-dir models/SmolLM2-135M-Instruct",
        "tune download google/gemma-3-270m-it --output-dir gemma --ignore '*.safetensors'",
    ),
)
