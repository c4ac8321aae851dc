"""`tune download`: fetch a model from the Hugging Face hub."""

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

from torchtune._counted import counted
from torchtune.cli._verb import MANY, Argument, Form, Verb
from torchtune.config import ConfigError
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import print_note

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

OUTPUT_DIR = Option("--output-dir", value="D", required=True)
REVISION = Option("--revision", "a branch, a tag or a commit; main if left out", "R")
INCLUDE = Option("--include", "fetch the files that match, in place of those above", "PATTERN", repeats=True)
IGNORE = Option("--ignore", "leave out the files that match, whatever else is said", "PATTERN", repeats=True)

TEXTS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
"""The configuration and the tokenizer; with them come the first of WEIGHTS that a repository has."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
ELSEWHERE = ("*/*", "consolidated*")
"""The same weights once more, in the formats of other programs: original/, onnx/, Mistral's own file."""
PARTS = "*.????????.incomplete"
"""Half files in a folder's .cache, under names that huggingface_hub 2 never takes up again."""
ABANDONED_SECONDS = 600.0
"""How long nobody writes to a half file before it is that of a run which was killed."""
ANSWER_SECONDS = 30.0
"""How long the hub may take to answer at all; huggingface_hub would wait for ever."""
WAY_OUT = "{}, or copy the folder from a machine that has it"


class Order(NamedTuple):
    """What one call asks for."""

    repository: str
    folder: str
    revision: str | None
    """None: the default branch."""
    include: Sequence[str]
    """Empty: the files that a model needs."""
    ignore: Sequence[str]


def run(call: Call) -> int:
    """Download a model."""
    repository, *more = call.arguments
    if more:
        hint = "put a pattern in quotes after --include or --ignore"
        raise ConfigError.of_word(more[0], "is not understood", hint)
    folder = call.value(OUTPUT_DIR) or ""
    order = Order(repository, folder, call.value(REVISION), call.values(INCLUDE), call.values(IGNORE))
    try:
        sizes = fetch(order)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command again fetches the files that are not whole\n")
        return 1
    amount = f"{counted(len(sizes), 'file')}, {_bytes(sum(sizes.values()))}"
    sys.stdout.write(f"wrote {amount}, into {folder}\n")
    if "config.json" in sizes:
        directory = shlex.quote(folder)
        sys.stdout.write(f"next: tune validate <recipe> --config <config> model_directory={directory}\n")
    return 0


def fetch(order: Order) -> dict[str, int]:
    """Fetch a repository's files into a folder.

    Returns:
        The size in bytes of each file that the order is for, whether it came now or was there.

    Raises:
        ValueError: The repository's name is malformed, or the folder cannot be written.
        LookupError: There is no such repository, revision or file.
        PermissionError: The hub wants a licence to be accepted, or another token; or HF_TOKEN is malformed.
        ConnectionError: The hub cannot be reached.
        OSError: The hub is at fault; another try may succeed.
    """
    from huggingface_hub import HfApi, get_token, snapshot_download

    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):  # else an error about the header would show it
        raise PermissionError("the token in HF_TOKEN has characters that no token has; copy it anew")
    with _plain_errors(order):
        info = HfApi().model_info(
            order.repository, revision=order.revision, files_metadata=True, timeout=ANSWER_SECONDS
        )
    there = {file.rfilename: file.size for file in info.siblings or ()}
    wanted = {name: there[name] for name in choose(order, list(there))}
    folder = Path(order.folder)
    with _plain_errors(order), _bars() as bars:
        _make_room(folder, wanted)
        snapshot_download(
            order.repository,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=[glob.escape(name) for name in wanted],
            tqdm_class=bars,
        )
    # snapshot_download only warns where the hub stops answering and the folder holds anything at all.
    lacking = _lacking(folder, wanted)
    if lacking:
        raise OSError(f"{_some(lacking)} did not come whole; try again later")
    return {name: (folder / name).stat().st_size for name in wanted}


def choose(order: Order, names: Sequence[str]) -> list[str]:
    """Return those of a repository's files that an order is for.

    Raises:
        LookupError: A pattern to include matches none of them, or all that match are to be ignored.
    """
    include, ignore = order.include, order.ignore
    for pattern in include:
        if not _matching(names, [pattern]):
            raise LookupError(f"no file of {order.repository} matches {pattern!r}; it has {_some(names)}")
    if not include:
        own = [name for name in names if name not in _matching(names, ELSEWHERE)]
        weights = [pattern for pattern in WEIGHTS if _matching(own, [pattern])]
        if not weights:
            print_note(f"no {' or '.join(WEIGHTS)}; --include takes others of {_some(names)}")
        include, ignore = [*TEXTS, *weights[:1]], [*ignore, *ELSEWHERE]
    left_out = set(_matching(names, ignore))
    chosen = [name for name in _matching(names, include) if name not in left_out]
    if not chosen:
        raise LookupError(f"no file of {order.repository} is left to fetch; it has {_some(names)}")
    return chosen


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match a pattern; one that ends in `/` is a folder with all that it holds."""
    whole = [pattern + "*" if pattern.endswith("/") else pattern for pattern in patterns]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in whole)]


def _some(names: Sequence[str], count: int = 10) -> str:
    rest = [f"{len(names) - count} more"] if len(names) > count else []
    return ", ".join([*names[:count], *rest]) or "none"


def _lacking(folder: Path, sizes: Mapping[str, int | None]) -> list[str]:
    """Return the names of the files that are not in a folder, or not in their size.

    Args:
        folder: Where they should be.
        sizes: Bytes of each, where the hub says it.
    """
    there = {name: (folder / name).stat().st_size for name in sizes if (folder / name).is_file()}
    return [name for name, size in sizes.items() if name not in there or size not in (None, there[name])]


def _make_room(folder: Path, sizes: Mapping[str, int | None]) -> None:
    """Make a folder, and see that what it lacks of the files fits.

    Raises:
        ValueError: It is a file, or its disk is too full.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output-dir {folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for part in (folder / ".cache").rglob(PARTS):
        if part.stat().st_mtime < time.time() - ABANDONED_SECONDS:
            part.unlink()
    needed = sum(sizes[name] or 0 for name in _lacking(folder, sizes))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"{folder} needs {_bytes(needed)} more, and {_bytes(free)} are free on its disk")


def _bytes(count: int) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(count, "B")


@contextmanager
def _bars() -> Iterator[Any]:
    """Yield a class of progress bars that show on a terminal only, and are gone at the end.

    Those of huggingface_hub stay open, and are drawn over what is printed next.
    """
    from huggingface_hub import constants
    from tqdm import tqdm

    made = []
    is_hidden = bool(constants.HF_HUB_DISABLE_PROGRESS_BARS) or not sys.stderr.isatty()

    class Bar(tqdm):  # type: ignore[type-arg]  # it is generic to the type checker only
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": is_hidden, "leave": False})
            made.append(self)

    try:
        yield Bar
    finally:
        for bar in reversed(made):
            bar.close()


@contextmanager
def _plain_errors(order: Order) -> Iterator[None]:
    """Say what huggingface_hub raises in the words of `tune download`."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        said = _said(cause or error, order)
        if said is None:
            raise
        raise said from error


def _said(error: BaseException, order: Order) -> Exception | None:
    """Return the exception to raise in place of another, or None where that one is plain or is a defect."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, HFValidationError):
        return ValueError(f"{order.repository!r} is no repository of the hub; write it as <owner>/<name>")
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError("HF_HUB_OFFLINE is set, so nothing is fetched: " + WAY_OUT.format("unset it"))
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, order)
    if isinstance(error, HfHubHTTPError.__bases__[0]):  # that of the HTTP library, which changes by version
        way = WAY_OUT.format("give the same command once there is a network")
        return ConnectionError(f"{constants.ENDPOINT} cannot be reached ({first_line}): {way}")
    if isinstance(error, json.JSONDecodeError):
        return ConnectionError(
            f"{constants.ENDPOINT} does not answer as the hub does; see to HF_ENDPOINT, or to the network's login"
        )
    if isinstance(error, OSError):
        if error.strerror:
            return ValueError(f"{order.folder} cannot be written: {error.strerror}")
        return OSError(f"{first_line}; try again later")
    return None


def _refusal(error: "HfHubHTTPError", order: Order) -> Exception:
    """Return the exception for an answer of the hub that is no success."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = order.repository
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{name} is gated: accept its licence on https://huggingface.co/{name}, and set HF_TOKEN to a token"
            " of the account that did"
        )
    is_anonymous = status == HTTPStatus.UNAUTHORIZED and get_token() is None
    if isinstance(error, RepositoryNotFoundError) or is_anonymous:
        return LookupError(
            f"{name} is not on the hub, or is private, for which HF_TOKEN must be a token that may read it"
        )
    if isinstance(error, RevisionNotFoundError):
        return LookupError(f"{name} has no revision {order.revision!r}")
    if status == HTTPStatus.UNAUTHORIZED:
        return PermissionError(
            "the hub does not know the token in HF_TOKEN; https://huggingface.co/settings/tokens makes another"
        )
    if status == HTTPStatus.FORBIDDEN:
        why = next(iter((error.server_message or "").splitlines()), "the token in HF_TOKEN may not read it")
        return PermissionError(f"the hub refuses {name}: {why}")
    return OSError(f"the hub answers {status} {error.response.reason_phrase}; try again later")


VERB = Verb(
    "download",
    run,
    forms=(Form((Argument("<owner/name>", most=MANY),), (OUTPUT_DIR, REVISION, INCLUDE, IGNORE)),),
    takes="a repository and --output-dir",
    about="""\
Fetches a model's configuration, tokenizer and weights from the Hugging Face hub:
safetensors, or pytorch_model*.bin where there are none; nothing in subfolders.""",
    notes="""\
Put patterns in quotes, each after its own --include or --ignore; `*` matches
`/` too. Interrupted, the same command fetches the files that are not whole, each
from its beginning. A gated or private model needs HF_TOKEN in the environment.""",
    examples=(
        "tune download HuggingFaceTB/SmolLM2-135M-Instruct --output-dir models/SmolLM2-135M-Instruct",
        "tune download google/gemma-3-270m-it --output-dir gemma --ignore '*.safetensors'",
    ),
)
