"""Downloads from a server that fails in every way: whole or not at all, checked, and going on where they broke off."""

import hashlib
import multiprocessing
import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from campaigns.errors import InvalidCheckpoint
from mergefront import download
from mergefront.download import download_directory
from merging.checkpoint import CheckpointFiles

WEIGHTS = "model.safetensors"
BODY = bytes(range(256)) * 8192
HALF = len(BODY) // 2


class Server(ThreadingHTTPServer):
    """Serves `files`, with ETag, Range and If-Range. `faults` has what goes wrong with the next requests for weights:
    how many bytes are sent before the connection is cut, bytes that go instead of the right ones, or a status."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"config.json": b"{}", WEIGHTS: BODY}
        self.faults = []
        self.requests = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def list_files(self):
        return [self.entry(name) for name in self.files]

    def entry(self, name):
        body = self.files[name]
        sha256 = None if name == WEIGHTS else hashlib.sha256(body).hexdigest()
        return {"name": name, "size_bytes": len(body), "etag": self.etag(name), "sha256": sha256, "url": f"/{name}"}

    def etag(self, name):
        return hashlib.sha256(b"version of " + self.files[name]).hexdigest()

    def asked(self, name=WEIGHTS):
        return [(path, extent) for path, extent in self.requests if path.startswith(f"/{name}")]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("range")))
        name, _, digest = self.path[1:].partition("/")
        if name not in self.server.files:
            self.send_error(404)
            return
        body, etag = self.server.files[name], self.server.etag(name)
        if digest:
            document = f'{{"etag": "{etag}", "sha256": "{hashlib.sha256(body).hexdigest()}"}}'
            self.answer(200, document.encode(), {})
            return
        fault = self.server.faults.pop(0) if self.server.faults and name == WEIGHTS else None
        if isinstance(fault, tuple):
            self.answer(fault[0], b"", fault[1])
            return
        headers = {"ETag": f'"{etag}"'}
        start = 0
        if self.headers.get("if-range") == f'"{etag}"':
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["range"])[1])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        body = fault if isinstance(fault, bytes) else body[start:]
        self.answer(206 if start else 200, body, headers, sent=fault if isinstance(fault, int) else None)

    def answer(self, status, body, headers, sent=None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def http(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
        yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)


@pytest.fixture
def pull(http, server, tmp_path):
    """Download into `pulled`, and say which progress was told."""

    def pull():
        seen = []
        download_directory(http, server.list_files, tmp_path / "pulled", lambda *told: seen.append(told))
        return seen

    return pull


def pulled(tmp_path):
    """Return what was pulled, by file name, having seen that nothing else is there."""
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]
    return {path.name: path.read_bytes() for path in (tmp_path / "pulled").iterdir()}


def test_every_file_arrives_and_progress_ends_at_the_total(pull, server, tmp_path):
    seen = pull()
    assert pulled(tmp_path) == server.files
    assert seen[-1] == (2 + len(BODY), 2 + len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_empty_directory_is_used(pull, server, tmp_path):
    (tmp_path / "pulled").mkdir()
    pull()
    assert pulled(tmp_path) == server.files


def test_a_directory_that_holds_something_is_never_touched(pull, server, tmp_path):
    (tmp_path / "pulled").mkdir()
    (tmp_path / "pulled" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty directory"):
        pull()
    assert pulled(tmp_path) == {"mine.txt": b"mine"}
    assert server.requests == []


def test_a_connection_that_breaks_is_resumed_where_it_broke(pull, server, tmp_path):
    server.faults = [HALF, 1000]
    pull()
    assert pulled(tmp_path) == server.files
    extents = [extent for path, extent in server.asked() if path == f"/{WEIGHTS}"]
    assert extents == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


def test_a_service_that_is_busy_is_asked_again_when_it_says(pull, server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    server.faults = [(503, {"Retry-After": "7"}), (429, {"Retry-After": "3"}), (503, {})]
    pull()
    assert pulled(tmp_path) == server.files
    assert slept == [7, 3, 0]


@pytest.mark.parametrize(
    ("faults", "error"),
    [([0] * download.ATTEMPTS, httpx.TransportError), ([(503, {})] * download.BUSY_ATTEMPTS, httpx.HTTPStatusError)],
)
def test_a_service_that_never_answers_is_given_up(pull, server, tmp_path, faults, error):
    server.faults = list(faults)
    with pytest.raises(error):
        pull()
    assert server.faults == []
    assert not (tmp_path / "pulled").exists()


def test_a_file_with_a_wrong_digest_is_fetched_again(pull, server, tmp_path):
    server.faults = [BODY[::-1]]
    pull()
    assert pulled(tmp_path) == server.files
    assert [extent for path, extent in server.asked() if path == f"/{WEIGHTS}"] == [None, None]


def test_a_file_that_stays_wrong_is_refused(pull, server, tmp_path):
    server.faults = [BODY[::-1]] * download.ATTEMPTS
    with pytest.raises(OSError, match=r"model\.safetensors arrived 5 times with another sha256"):
        pull()
    assert not (tmp_path / "pulled").exists()


def test_a_damaged_part_is_found_out(pull, server, tmp_path):
    """What was left of the last download was damaged on disk: the digest of the whole says so."""
    server.faults = [HALF, (404, {})]
    with pytest.raises(httpx.HTTPStatusError):
        pull()
    [part] = (tmp_path / ".pulled.pull").glob("*.part")
    part.write_bytes(b"?" + part.read_bytes()[1:])
    pull()
    assert pulled(tmp_path) == server.files


def test_a_size_that_is_not_as_said_is_refused(pull, server, tmp_path):
    server.faults = [BODY[:-1]]
    with pytest.raises(OSError, match=f"with {len(BODY) - 1} bytes instead of {len(BODY)}"):
        pull()
    assert not (tmp_path / "pulled").exists()


def test_the_next_download_goes_on_and_fetches_nothing_twice(pull, server, tmp_path):
    server.faults = [HALF, (404, {})]
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        pull()
    assert not (tmp_path / "pulled").exists()
    server.requests.clear()
    seen = pull()
    assert pulled(tmp_path) == server.files
    assert server.requests == [(f"/{WEIGHTS}", f"bytes={HALF}-"), (f"/{WEIGHTS}/digest", None)]
    assert seen[0][0] > 2 + HALF


def test_a_file_that_changed_since_is_fetched_anew(pull, server, tmp_path):
    server.faults = [HALF, (404, {})]
    with pytest.raises(httpx.HTTPStatusError):
        pull()
    server.files[WEIGHTS] = BODY[::-1]
    pull()
    assert pulled(tmp_path) == server.files
    assert server.asked()[-2:] == [(f"/{WEIGHTS}", None), (f"/{WEIGHTS}/digest", None)]


def test_a_file_that_changes_meanwhile_has_the_manifest_read_again(http, server, tmp_path):
    """As model cards do, while the baselines are scored."""
    readings = []

    def list_files():
        files = server.list_files()
        readings.append(files)
        if len(readings) == 1:
            server.files["config.json"] = b'{"later": true}'
        return files

    download_directory(http, list_files, tmp_path / "pulled", lambda *told: None)
    assert pulled(tmp_path) == server.files
    assert len(readings) == 2


def test_two_downloads_into_one_directory_do_not_meet(pull, http, server, tmp_path):
    def list_files():
        with pytest.raises(BlockingIOError, match="another download into"):
            pull()
        return server.list_files()

    download_directory(http, list_files, tmp_path / "pulled", lambda *told: None)
    assert pulled(tmp_path) == server.files


def test_a_service_that_refuses_leaves_nothing(pull, server, tmp_path):
    listed = server.list_files
    server.list_files = lambda: [{**listed()[0], "url": "/missing.json"}]
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        pull()
    assert [*tmp_path.iterdir()] == []


def pull_and_die(port, files, target, step):
    """Download, but be killed when progress is told for the `step`-th time."""
    calls = []

    def progress(*told):
        calls.append(told)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        download_directory(client, lambda: files, target, progress)


def test_a_killed_download_leaves_no_model_and_the_next_one_ends_it(pull, server, tmp_path):
    """Killed at every few steps in turn, the last one when all is there but the renaming."""
    target = tmp_path / "pulled"
    for step in (1, 2, 5, 3, 2):
        killed = multiprocessing.get_context("fork").Process(
            target=pull_and_die, args=(server.server_port, server.list_files(), target, step)
        )
        killed.start()
        killed.join(60)
        assert killed.exitcode == -signal.SIGKILL
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".")
        assert not {"config.json", WEIGHTS} & {path.name for path in left.iterdir()}
        with pytest.raises(InvalidCheckpoint):
            CheckpointFiles(left)
    pull()
    assert pulled(tmp_path) == server.files
