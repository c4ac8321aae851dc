"""`tune download` against a local server that imitates the Hugging Face hub."""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.tune import Result, Tune

COMMIT = "c" * 40
WEIGHTS = bytes(range(256)) * 40
SMALL = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "a[1].jinja": b"named like a pattern"}
MODEL_FILES = {**SMALL, "model.safetensors": WEIGHTS}
OTHER_FILES = {
    "README.md": b"#",
    "pytorch_model.bin": b"p",
    "consolidated.safetensors": b"c",
    "model.Q4.gguf": b"g",
    "original/params.json": b"{}",
    "onnx/model.safetensors": b"o",
}


class ErrorResponse(NamedTuple):
    """An error response of the hub: a status, X-Error-Code and X-Error-Message."""

    status: int
    code: str = ""
    message: str = ""


class Hub(ThreadingHTTPServer):
    """A server with one repository, `owner/name`. It returns files or error responses and records requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = dict(MODEL_FILES)
        self.errors: dict[str, ErrorResponse] = {}
        """Error responses, keyed by the beginning of a request, such as `GET /api/models`."""
        self.interrupted_files: set[str] = set()
        """Files whose first transfer ends halfway."""
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Handles the requests of huggingface_hub 2.4 like https://huggingface.co."""

    server: Hub

    def do_GET(self) -> None:
        path = urlsplit(unquote(self.path)).path
        request = f"{self.command} {path}"
        self.server.requests.append(" ".join([request, *filter(None, [self.headers["Range"]])]))
        self.server.tokens.add(self.headers["Authorization"])
        for beginning, response in self.server.errors.items():
            if request.startswith(beginning):
                self._send(b"", response.status, X_Error_Code=response.code, X_Error_Message=response.message)
                return
        files = self.server.files
        if path.startswith("/api/models/owner/name/tree/"):
            tree = [{"type": "file", "path": n, "size": len(b), "oid": _etag(b)} for n, b in files.items()]
            self._send(json.dumps(tree).encode())
        elif path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": n, "size": len(b)} for n, b in files.items()]
            self._send(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/owner/name/resolve/{COMMIT}/"):
            self._send_file(path.removeprefix(f"/owner/name/resolve/{COMMIT}/"))
        else:
            self._send(b"", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 -- the base class calls this name

    def _send_file(self, name: str) -> None:
        body = self.server.files[name]
        byte_range = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(byte_range[1]) if byte_range else 0
        interrupted = self.command == "GET" and name in self.server.interrupted_files
        self.server.interrupted_files -= {name} if interrupted else set()
        status = 206 if byte_range else 200
        self._send(
            body[start:], status, interrupted=interrupted, ETag=f'"{_etag(body)}"', X_Repo_Commit=COMMIT
        )

    def _send(self, body: bytes, status: int = 200, *, interrupted: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if interrupted else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class uses this name
        pass


def _etag(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a hub and direct all requests of huggingface_hub to it."""
    server = Hub()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # huggingface_hub read the corresponding environment variables when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


class Download:
    """Calls `tune download owner/name` with a test folder as output folder."""

    def __init__(self, tune: Tune, folder: Path) -> None:
        self._tune = tune
        self.folder = folder

    def __call__(self, *args: str) -> Result:
        return self._tune("download", "owner/name", "--output-dir", str(self.folder), *args)

    @property
    def files(self) -> dict[str, bytes]:
        """The downloaded files, without the metadata of huggingface_hub."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        names = {path.relative_to(self.folder).as_posix(): path for path in paths}
        return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".cache")}


@pytest.fixture
def download(tune: Tune, tmp_path: Path) -> Download:
    return Download(tune, tmp_path / "models" / "mine")


def test_only_model_files_are_downloaded(hub: Hub, download: Download) -> None:
    hub.files |= OTHER_FILES
    result = download()
    assert result.status == 0, result.err
    assert download.files == MODEL_FILES
    size = sum(map(len, MODEL_FILES.values()))
    assert f"wrote 4 files ({size / 1e3:.1f}kB) to {download.folder}\n" in result.out
    assert f"model_directory={download.folder}\n" in result.out


def test_pickles_replace_missing_safetensors_and_a_note_is_printed_if_both_are_missing(
    hub: Hub, download: Download
) -> None:
    hub.files = {**SMALL, **OTHER_FILES}
    assert download().err == ""
    assert download.files == {**SMALL, "pytorch_model.bin": b"p"}
    del hub.files["pytorch_model.bin"]
    shutil.rmtree(download.folder)
    result = download()
    assert result.status == 0
    assert download.files == SMALL
    note = r"note: owner/name has no \*.safetensors or pytorch_model\*.bin; .*, model.Q4.gguf"
    assert re.match(note, result.err)


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ("--include *.gguf --include=README.md", {"model.Q4.gguf", "README.md"}),
        ("--include *.json --ignore tok* --ignore original/*", {"config.json"}),
        ("--include onnx/", {"onnx/model.safetensors"}),
        ("--ignore *.safetensors", set(SMALL)),
    ],
)
def test_patterns_select_files(args: str, names: set[str], hub: Hub, download: Download) -> None:
    hub.files |= OTHER_FILES
    result = download(*args.split())
    assert result.status == 0, result.err
    assert download.files.keys() == names


@pytest.mark.parametrize("args", ["--include *.json --include *.ggfu", "--include *.json --ignore *"])
def test_error_for_unmatched_patterns_lists_file_names(args: str, hub: Hub, download: Download) -> None:
    hub.files |= {f"{i:02}.bin": b"" for i in range(20)}
    result = download(*args.split())
    assert result.status == 2
    assert ": config.json, tokenizer.json" in result.err
    assert "14 more" in result.err
    assert not download.folder.exists()


def test_revision_is_resolved_and_its_commit_is_downloaded(hub: Hub, download: Download) -> None:
    assert download("--revision", "refs/pr/1").status == 0
    assert hub.requests.count("GET /api/models/owner/name/revision/refs/pr/1") == 1
    assert f"GET /owner/name/resolve/{COMMIT}/config.json" in hub.requests


def test_second_call_downloads_only_the_missing_files(hub: Hub, download: Download) -> None:
    failing = f"GET /owner/name/resolve/{COMMIT}/model.safetensors"
    hub.errors[failing] = ErrorResponse(503)
    first = download()
    assert first.status == 1
    assert first.err == "tune: the hub responded with 503 Service Unavailable; try again later\n"
    assert download.files == SMALL
    hub.errors.clear()
    hub.requests.clear()
    assert download().status == 0
    assert download.files == MODEL_FILES
    assert [r for r in hub.requests if r.startswith("GET /owner")] == [failing]


def test_interrupted_transfer_resumes_where_it_stopped(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub waits before it tries again
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # default: 10 MB; only whole chunks are kept
    hub.interrupted_files = {"model.safetensors"}
    assert download().status == 0
    assert download.files == MODEL_FILES
    requests = [r for r in hub.requests if r.startswith("GET") and "model.safetensors" in r]
    assert [r.endswith(f"bytes={len(WEIGHTS) // 2}-") for r in requests] == [False, True]


def test_partial_files_of_killed_downloads_are_removed_and_recent_ones_are_kept(
    hub: Hub, download: Download
) -> None:
    metadata_folder = download.folder / ".cache" / "huggingface" / "download"
    metadata_folder.mkdir(parents=True)
    abandoned, recent = (
        metadata_folder / "x.etag.0123abcd.incomplete",
        metadata_folder / "y.etag.0123abcd.incomplete",
    )
    abandoned.touch()
    recent.touch()
    os.utime(abandoned, (0, 0))
    assert download().status == 0
    assert not abandoned.exists()
    assert recent.exists()


@pytest.mark.parametrize(
    ("request_", "response", "status", "part"),
    [
        ("GET /api", ErrorResponse(404, "RepoNotFound"), 2, "owner/name is not on the hub, or is private"),
        ("GET /api", ErrorResponse(401), 2, "owner/name is not on the hub, or is private"),
        ("GET /api", ErrorResponse(404, "RevisionNotFound"), 2, "owner/name has no revision 'v9'"),
        (
            "GET /api",
            ErrorResponse(403, "GatedRepo"),
            2,
            "accept its licence on https://huggingface.co/owner/name,",
        ),
        ("HEAD /owner", ErrorResponse(401, "GatedRepo"), 2, "owner/name is gated"),
        (
            "HEAD /owner",
            ErrorResponse(403, "", "enable access to gated repositories"),
            2,
            "enable access to gated",
        ),
        ("GET /api", ErrorResponse(502), 1, "502 Bad Gateway; try again later"),
        ("GET /api", ErrorResponse(200), 2, "does not respond like the Hugging Face hub"),
    ],
)
def test_error_response_is_reported_in_one_line_with_advice(
    request_: str, response: ErrorResponse, status: int, part: str, hub: Hub, download: Download
) -> None:
    hub.errors[request_] = response
    result = download("--revision", "v9")
    assert result.status == status, result.err
    assert part in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_download_without_a_response_is_reported_as_incomplete(hub: Hub, download: Download) -> None:
    download.folder.mkdir(parents=True)
    (download.folder / "config.json").write_bytes(b"{}")
    hub.errors["GET /api/models/owner/name/tree"] = ErrorResponse(501)
    result = download()
    assert result.status == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("tune: incomplete download: ")
    assert last.endswith("model.safetensors; try again later")


def test_environment_token_is_sent_and_never_printed(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    output = [*download()]
    assert hub.tokens == {"Bearer hf_secret"}
    for beginning, code in {"GET /api": "GatedRepo", "GET": "RepoNotFound", "HEAD": ""}.items():
        shutil.rmtree(download.folder, ignore_errors=True)
        hub.errors = {beginning: ErrorResponse(401, code)}
        output += download()
    monkeypatch.setenv("HF_TOKEN", "hf_secret\u2026")
    output += (malformed := download())
    assert malformed.status == 2
    assert "the token in HF_TOKEN contains invalid characters" in malformed.err
    assert "secret" not in " ".join(map(str, output))


def test_token_rejected_by_the_hub_is_reported(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    hub.errors["GET /api"] = ErrorResponse(401, "", "Invalid credentials in Authorization header")
    result = download()
    assert (result.status, result.err.count("\n")) == (2, 1)
    message = (
        "does not recognize the token in HF_TOKEN; create a new one on https://huggingface.co/settings/tokens"
    )
    assert message in result.err


def test_offline_mode_and_a_failed_connection_are_reported_with_advice(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = download()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    failed = download()
    assert (offline.status, failed.status, (offline.err + failed.err).count("\n")) == (2, 2, 2)
    expected = "HF_HUB_OFFLINE is set, so nothing is downloaded; unset the variable, or copy the folder"
    assert expected in offline.err
    assert re.match(f"tune: cannot reach {address} .*, or copy the folder", failed.err)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["a/b/c", "owner/na me", "https://huggingface.co/owner/name", "a--b"])
def test_malformed_repository_is_rejected_without_a_request(
    name: str, hub: Hub, tune: Tune, tmp_path: Path
) -> None:
    result = tune("download", name, "--output-dir", str(tmp_path / "x"))
    assert result.status == 2
    assert result.err == f"tune: {name!r} is not a repository name; expected <owner>/<name>\n"
    assert hub.requests == []


def test_output_folder_that_is_a_file_or_inside_a_file_is_rejected(
    hub: Hub, download: Download, tmp_path: Path
) -> None:
    (tmp_path / "models").write_text("mine")
    inside_file = download()
    download.folder = tmp_path / "models"
    file_itself = download()
    assert (inside_file.status, file_itself.status, (inside_file.err + file_itself.err).count("\n")) == (
        2,
        2,
        2,
    )
    assert f"{tmp_path}/models/mine cannot be written: " in inside_file.err
    assert f"--output-dir: {tmp_path}/models is a file; expected a folder" in file_itself.err
    assert (tmp_path / "models").read_text() == "mine"


def test_full_disk_is_reported_before_or_during_the_download(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50))
        result_before = download()
    assert result_before.status == 2
    assert "not enough disk space; 10.3kB needed, 50.0B free" in result_before.err
    assert not any("resolve" in request for request in hub.requests)

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fill)
    result_during = download()
    assert (result_during.status, result_during.err.count("\n")) == (2, 1)
    assert "cannot be written: No space left on device" in result_during.err


@pytest.mark.parametrize(("is_terminal", "is_disabled"), [(True, False), (True, True), (False, False)])
def test_progress_is_shown_on_a_terminal_only_and_cleared_before_the_result(
    is_terminal: bool, is_disabled: bool, hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", is_disabled)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    result = download()
    assert result.status == 0
    assert ("Fetching 4 files" in result.err) == (is_terminal and not is_disabled)
    assert result.err.split("\r")[-1].strip() == ""


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ("b/c", "b/c: unexpected argument; put each pattern in quotes"),
        ("owner/name", "owner/name: unexpected argument"),
        ("--inculde=*.json", "--inculde=*.json: unknown option"),
        ("--config x", "--config: unknown option"),
        ("--include", "--include: expected a value"),
        ("--revision --ignore x", "--revision: expected a value"),
        ("--revision a --revision b", "--revision b: --revision is given twice"),
    ],
)
def test_invalid_arguments_are_rejected(args: str, part: str, hub: Hub, download: Download) -> None:
    result = download(*args.split())
    assert result.status == 2
    assert part in result.err
    assert hub.requests == []
