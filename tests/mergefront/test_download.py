"""Downloads from a real server: whole or not at all."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from mergefront.download import download_directory


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def http(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "config.json").write_bytes(b"{}")
    (served / "model.safetensors").write_bytes(bytes(range(256)) * 8192)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
        yield client
    server.shutdown()
    server.server_close()


def entry(name, size):
    return {"name": name, "size_bytes": size, "url": f"/{name}"}


FILES = [entry("config.json", 2), entry("model.safetensors", 256 * 8192)]


def test_every_file_arrives_and_progress_ends_at_the_total(http, tmp_path):
    seen = []
    target = download_directory(
        http, FILES, tmp_path / "new" / "pulled", lambda done, total: seen.append((done, total))
    )
    assert (target / "config.json").read_bytes() == b"{}"
    assert (target / "model.safetensors").read_bytes() == bytes(range(256)) * 8192
    assert seen[-1] == (2 + 256 * 8192, 2 + 256 * 8192)
    assert [path.name for path in target.parent.iterdir()] == ["pulled"]


def test_an_empty_directory_is_used(http, tmp_path):
    (tmp_path / "pulled").mkdir()
    assert (download_directory(http, FILES, tmp_path / "pulled", lambda done, total: None) / "config.json").exists()


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ([*FILES, entry("missing.json", 2)], httpx.HTTPStatusError),
        ([entry("config.json", 3)], OSError),
    ],
)
def test_a_failed_download_leaves_nothing(http, tmp_path, files, error):
    with pytest.raises(error):
        download_directory(http, files, tmp_path / "pulled", lambda done, total: None)
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_a_directory_that_holds_something_is_never_touched(http, tmp_path):
    (tmp_path / "pulled").mkdir()
    (tmp_path / "pulled" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty directory"):
        download_directory(http, FILES, tmp_path / "pulled", lambda done, total: None)
    assert (tmp_path / "pulled" / "mine.txt").read_text() == "mine"
