"""`tune download` against a hub of our own, a server on this machine that answers as the real one does."""

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
USUAL = {**SMALL, "model.safetensors": WEIGHTS}
UNUSUAL = {
    "README.md": b"#",
    "pytorch_model.bin": b"p",
    "consolidated.safetensors": b"c",
    "model.Q4.gguf": b"g",
    "original/params.json": b"{}",
    "onnx/model.safetensors": b"o",
}


class Answer(NamedTuple):
    """What the hub says in place of what is asked for: a status, X-Error-Code and X-Error-Message."""

    status: int
    code: str = ""
    message: str = ""


class Hub(ThreadingHTTPServer):
    """One repository, `owner/name`, on a server: its files, what is refused, and what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = dict(USUAL)
        self.refusals: dict[str, Answer] = {}
        """By a request's beginning, such as `GET /api/models`."""
        self.breaks: set[str] = set()
        """Files whose first transfer ends halfway."""
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers as https://huggingface.co does, as far as huggingface_hub 2.4 asks."""

    server: Hub

    def do_GET(self) -> None:
        path = urlsplit(unquote(self.path)).path
        request = f"{self.command} {path}"
        self.server.asked.append(" ".join([request, *filter(None, [self.headers["Range"]])]))
        self.server.tokens.add(self.headers["Authorization"])
        for beginning, answer in self.server.refusals.items():
            if request.startswith(beginning):
                self._send(b"", answer.status, X_Error_Code=answer.code, X_Error_Message=answer.message)
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

    do_HEAD = do_GET  # noqa: N815 -- the name that the base class calls

    def _send_file(self, name: str) -> None:
        body = self.server.files[name]
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(found[1]) if found else 0
        breaks = self.command == "GET" and name in self.server.breaks
        self.server.breaks -= {name} if breaks else set()
        status = 206 if found else 200
        self._send(body[start:], status, breaks=breaks, ETag=f'"{_etag(body)}"', X_Repo_Commit=COMMIT)

    def _send(self, body: bytes, status: int = 200, *, breaks: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if breaks else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name in the base class
        pass


def _etag(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a hub, and let huggingface_hub know no other."""
    server = Hub()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # What the environment says of these was read when huggingface_hub was imported.
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
    """Calls `tune download owner/name` into a folder of the test."""

    def __init__(self, tune: Tune, folder: Path) -> None:
        self._tune = tune
        self.folder = folder

    def __call__(self, *words: str) -> Result:
        return self._tune("download", "owner/name", "--output-dir", str(self.folder), *words)

    @property
    def files(self) -> dict[str, bytes]:
        """What came, without huggingface_hub's own notes."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        names = {path.relative_to(self.folder).as_posix(): path for path in found}
        return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".cache")}


@pytest.fixture
def download(tune: Tune, tmp_path: Path) -> Download:
    return Download(tune, tmp_path / "models" / "mine")


def test_what_a_model_needs_comes_and_nothing_else(hub: Hub, download: Download) -> None:
    hub.files |= UNUSUAL
    result = download()
    assert result.status == 0, result.err
    assert download.files == USUAL
    size = sum(map(len, USUAL.values()))
    assert f"wrote 4 files, {size / 1e3:.1f}kB, into {download.folder}\n" in result.out
    assert f"model_directory={download.folder}\n" in result.out


def test_without_safetensors_pickles_come_and_without_both_a_note(hub: Hub, download: Download) -> None:
    hub.files = {**SMALL, **UNUSUAL}
    assert download().err == ""
    assert download.files == {**SMALL, "pytorch_model.bin": b"p"}
    del hub.files["pytorch_model.bin"]
    shutil.rmtree(download.folder)
    result = download()
    assert result.status == 0
    assert download.files == SMALL
    assert re.match(r"note: no \*.safetensors or pytorch_model\*.bin; .*, model.Q4.gguf", result.err)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--include *.gguf --include=README.md", {"model.Q4.gguf", "README.md"}),
        ("--include *.json --ignore tok* --ignore original/*", {"config.json"}),
        ("--include onnx/", {"onnx/model.safetensors"}),
        ("--ignore *.safetensors", set(SMALL)),
    ],
)
def test_patterns_choose(words: str, names: set[str], hub: Hub, download: Download) -> None:
    hub.files |= UNUSUAL
    result = download(*words.split())
    assert result.status == 0, result.err
    assert download.files.keys() == names


@pytest.mark.parametrize("words", ["--include *.json --include *.ggfu", "--include *.json --ignore *"])
def test_patterns_that_leave_nothing_name_files_that_are_there(
    words: str, hub: Hub, download: Download
) -> None:
    hub.files |= {f"{i:02}.bin": b"" for i in range(20)}
    result = download(*words.split())
    assert result.status == 2
    assert "it has config.json, tokenizer.json" in result.err
    assert "14 more" in result.err
    assert not download.folder.exists()


def test_revision_is_asked_for_and_its_commit_is_fetched(hub: Hub, download: Download) -> None:
    assert download("--revision", "refs/pr/1").status == 0
    assert hub.asked.count("GET /api/models/owner/name/revision/refs/pr/1") == 1
    assert f"GET /owner/name/resolve/{COMMIT}/config.json" in hub.asked


def test_second_call_fetches_only_what_the_first_did_not_get(hub: Hub, download: Download) -> None:
    broken = f"GET /owner/name/resolve/{COMMIT}/model.safetensors"
    hub.refusals[broken] = Answer(503)
    first = download()
    assert first.status == 1
    assert first.err == "tune: the hub answers 503 Service Unavailable; try again later\n"
    assert download.files == SMALL
    hub.refusals.clear()
    hub.asked.clear()
    assert download().status == 0
    assert download.files == USUAL
    assert [r for r in hub.asked if r.startswith("GET /owner")] == [broken]


def test_transfer_that_breaks_goes_on_from_where_it_was(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub waits before it tries again
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # whole chunks are kept; it is 10 MB
    hub.breaks = {"model.safetensors"}
    assert download().status == 0
    assert download.files == USUAL
    asked = [r for r in hub.asked if r.startswith("GET") and "model.safetensors" in r]
    assert [r.endswith(f"bytes={len(WEIGHTS) // 2}-") for r in asked] == [False, True]


def test_half_files_of_killed_runs_go_and_those_of_other_runs_stay(hub: Hub, download: Download) -> None:
    notes = download.folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    dead, living = notes / "x.etag.0123abcd.incomplete", notes / "y.etag.0123abcd.incomplete"
    dead.touch()
    living.touch()
    os.utime(dead, (0, 0))
    assert download().status == 0
    assert not dead.exists()
    assert living.exists()


@pytest.mark.parametrize(
    ("request_", "answer", "status", "part"),
    [
        ("GET /api", Answer(404, "RepoNotFound"), 2, "owner/name is not on the hub, or is private"),
        ("GET /api", Answer(401), 2, "owner/name is not on the hub, or is private"),
        ("GET /api", Answer(404, "RevisionNotFound"), 2, "owner/name has no revision 'v9'"),
        ("GET /api", Answer(403, "GatedRepo"), 2, "accept its licence on https://huggingface.co/owner/name,"),
        ("HEAD /owner", Answer(401, "GatedRepo"), 2, "owner/name is gated"),
        ("HEAD /owner", Answer(403, "", "enable access to gated repositories"), 2, "enable access to gated"),
        ("GET /api", Answer(502), 1, "502 Bad Gateway; try again later"),
        ("GET /api", Answer(200), 2, "does not answer as the hub does"),
    ],
)
def test_refusal_is_one_line_that_says_what_to_do(
    request_: str, answer: Answer, status: int, part: str, hub: Hub, download: Download
) -> None:
    hub.refusals[request_] = answer
    result = download("--revision", "v9")
    assert result.status == status, result.err
    assert part in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_hub_that_stops_answering_does_not_count_as_done(hub: Hub, download: Download) -> None:
    download.folder.mkdir(parents=True)
    (download.folder / "config.json").write_bytes(b"{}")
    hub.refusals["GET /api/models/owner/name/tree"] = Answer(501)
    result = download()
    assert result.status == 1
    assert result.err.splitlines()[-1].endswith("model.safetensors did not come whole; try again later")


def test_token_of_the_environment_is_sent_and_never_shown(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    shown = [*download()]
    assert hub.tokens == {"Bearer hf_secret"}
    for beginning, code in {"GET /api": "GatedRepo", "GET": "RepoNotFound", "HEAD": ""}.items():
        shutil.rmtree(download.folder, ignore_errors=True)
        hub.refusals = {beginning: Answer(401, code)}
        shown += download()
    monkeypatch.setenv("HF_TOKEN", "hf_secret\u2026")
    shown += (malformed := download())
    assert malformed.status == 2
    assert "has characters that no token has" in malformed.err
    assert "secret" not in " ".join(map(str, shown))


def test_token_that_the_hub_does_not_know_is_named(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    hub.refusals["GET /api"] = Answer(401, "", "Invalid credentials in Authorization header")
    result = download()
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "does not know the token in HF_TOKEN; https://huggingface.co/settings/tokens" in result.err


def test_offline_says_so_and_no_connection_what_was_tried(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = download()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    alone = download()
    assert (offline.status, alone.status, (offline.err + alone.err).count("\n")) == (2, 2, 2)
    assert "HF_HUB_OFFLINE is set, so nothing is fetched: unset it, or copy the folder" in offline.err
    assert re.match(f"tune: {address} cannot be reached .*, or copy the folder", alone.err)
    assert hub.asked == []


@pytest.mark.parametrize("name", ["a/b/c", "owner/na me", "https://huggingface.co/owner/name", "a--b"])
def test_malformed_repository_is_refused_before_the_hub_is_asked(
    name: str, hub: Hub, tune: Tune, tmp_path: Path
) -> None:
    result = tune("download", name, "--output-dir", str(tmp_path / "x"))
    assert result.status == 2
    assert result.err == f"tune: {name!r} is no repository of the hub; write it as <owner>/<name>\n"
    assert hub.asked == []


def test_file_in_the_folders_place_or_above_stays(hub: Hub, download: Download, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("mine")
    below = download()
    download.folder = tmp_path / "models"
    there = download()
    assert (below.status, there.status, (below.err + there.err).count("\n")) == (2, 2, 2)
    assert f"{tmp_path}/models/mine cannot be written: " in below.err
    assert f"--output-dir {tmp_path}/models is a file; name a folder" in there.err
    assert (tmp_path / "models").read_text() == "mine"


def test_full_disk_is_said_before_anything_is_fetched_or_when_it_fills(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50))
        before = download()
    assert before.status == 2
    assert "needs 10.3kB more, and 50.0B are free on its disk" in before.err
    assert not any("resolve" in request for request in hub.asked)

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fill)
    filled = download()
    assert (filled.status, filled.err.count("\n")) == (2, 1)
    assert "cannot be written: No space left on device" in filled.err


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
    ("words", "part"),
    [
        ("b/c", "b/c: is not understood; put a pattern in quotes"),
        ("owner/name", "owner/name: is not understood"),
        ("--inculde=*.json", "--inculde=*.json: is not understood"),
        ("--config x", "--config: is not understood"),
        ("--include", "--include: needs a value"),
        ("--revision --ignore x", "--revision: needs a value"),
        ("--revision a --revision b", "--revision b: --revision is given twice"),
    ],
)
def test_words_without_a_meaning_are_refused(words: str, part: str, hub: Hub, download: Download) -> None:
    result = download(*words.split())
    assert result.status == 2
    assert part in result.err
    assert hub.asked == []
