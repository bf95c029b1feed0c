"""Weight streams: so many at once, freed by clients that go away or stop reading; small things never wait."""

import hashlib
import http.client
import logging
import os
import threading
from pathlib import Path
from typing import Self

import httpx
import huggingface_hub
import pytest

from api import Settings
from mergefront.client import Client, RequestRefused

WEIGHTS = "model.safetensors"
LARGE = {"vocabulary": 12_000, "hidden": 512}  # 25 MB: more than socket buffers take
STALL_SECONDS = 1.0
ATTEMPTS = 600


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.replace(max_streams=1, stream_wait_seconds=0.05, stream_stall_seconds=STALL_SECONDS)


@pytest.fixture
def patient(settings: Settings) -> Settings:
    return settings.replace(stream_stall_seconds=600)


@pytest.fixture
def files(client, worker, spec, make_checkpoint, search_of) -> str:
    """The address of the files of a merge of two larger checkpoints."""
    paths = [make_checkpoint(name, **LARGE) for name in ("first", "second")]
    spec["pool"] = {"checkpoints": [{"name": path.name, "path": str(path)} for path in paths]}
    response = client.post("/v1/campaigns", json=spec)
    assert response.status_code == 201, response.text
    trial = search_of(response.json()["id"]).three_trials()[1]
    return f"/v1/checkpoints/{trial.id}/files"


class Reader:
    """A client that asks for the weights, reads no more than the head of the answer, and then what it is told to."""

    def __init__(self, served: httpx.Client, files: str) -> None:
        self.connection = http.client.HTTPConnection(served.base_url.host, served.base_url.port, timeout=60)
        for _ in range(ATTEMPTS):  # the stream before may not have ended when its last byte has arrived
            self.connection.request("GET", f"{files}/{WEIGHTS}")
            self.response = self.connection.getresponse()
            if self.response.status == 200:
                return
            self.response.read()
        raise AssertionError("no stream got free")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def until_served(served: httpx.Client, files: str) -> bytes:
    """Ask for the weights until they come."""
    for _ in range(ATTEMPTS):
        response = served.get(f"{files}/{WEIGHTS}")
        if response.status_code == 200:
            return response.content
        assert response.status_code == 503
    raise AssertionError("no stream got free")


@pytest.fixture
def served_patiently(patient: Settings, serve) -> httpx.Client:
    return serve(patient)


def test_what_is_too_many_is_refused_and_small_things_are_not(served_patiently: httpx.Client, files: str) -> None:
    with Reader(served_patiently, files):
        refused = served_patiently.get(f"{files}/{WEIGHTS}")
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert "1 weight streams" in refused.json()["detail"]
        assert served_patiently.get(f"{files}/{WEIGHTS}/digest").status_code == 503
        for name in ("config.json", "tokenizer.json", "README.md", "tokenizer.json/digest"):
            assert served_patiently.get(f"{files}/{name}").status_code == 200, name
        assert served_patiently.head(f"{files}/{WEIGHTS}").status_code == 200
        header = served_patiently.get(f"{files}/{WEIGHTS}", headers={"Range": "bytes=0-99999"})
        assert (header.status_code, len(header.content)) == (206, 100_000)
        assert served_patiently.get(f"{files}/{WEIGHTS}", headers={"Range": "bytes=0-9999999"}).status_code == 503


def test_a_client_that_goes_away_midway_frees_its_stream(served_patiently: httpx.Client, files: str) -> None:
    for _ in range(3):
        reader = Reader(served_patiently, files)
        assert len(reader.response.read(100_000)) == 100_000
        reader.close()
        until_served(served_patiently, files)


def test_a_client_that_never_reads_is_given_up(
    served: httpx.Client, files: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "api.streams"):
        reader = Reader(served, files)
        whole = until_served(served, files)
    assert f"took nothing for {STALL_SECONDS:g} s" in caplog.text
    with pytest.raises(http.client.IncompleteRead) as caught:
        reader.response.read()
    assert 0 < len(caught.value.partial) < len(whole)
    assert whole.startswith(caught.value.partial)
    reader.close()


def test_a_client_that_waits_gets_the_stream_that_another_leaves(serve, patient: Settings, files: str) -> None:
    served = serve(patient.replace(stream_wait_seconds=60))
    with Reader(served, files) as reader:
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(served.get(f"{files}/{WEIGHTS}")))
        waiting.start()
        expected = reader.response.read()
        waiting.join()
    assert [(answer.status_code, answer.content == expected) for answer in answers] == [(200, True)]


def test_the_hubs_client_comes_back_for_a_stream(
    served_patiently: httpx.Client, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for what Retry-After says, the stream gets free."""
    reader = Reader(served_patiently, files)
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        reader.close()
        until_served(served_patiently, files)

    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", sleep)
    endpoint, trial_id = str(served_patiently.base_url).rstrip("/"), files.split("/")[3]
    repository = trial_id.replace("-", "/")
    try:
        path = huggingface_hub.hf_hub_download(repository, WEIGHTS, endpoint=endpoint, token=False, cache_dir=tmp_path)
    finally:
        huggingface_hub.close_session()
    assert slept == [2.0]
    assert Path(path).read_bytes() == until_served(served_patiently, files)


def test_the_digest_of_a_file_is_that_of_its_bytes(served: httpx.Client, files: str) -> None:
    """Weights that nobody has merged yet are merged for it, and once."""
    manifest = served.get(files.removesuffix("/files")).json()
    known = {file["name"]: file["sha256"] for file in manifest["files"]}
    assert [name for name, sha256 in known.items() if sha256 is None] == [WEIGHTS]
    for file in manifest["files"]:
        told = served.get(f"{file['url']}/digest").json()
        assert told["sha256"] == hashlib.sha256(served.get(file["url"]).content).hexdigest()
        assert known[file["name"]] in (None, told["sha256"])
        assert told == {key: file[key] for key in ("name", "size_bytes", "etag")} | {"sha256": told["sha256"]}
    manifest = served.get(files.removesuffix("/files")).json()
    assert None not in [file["sha256"] for file in manifest["files"]]


def test_a_file_that_was_sent_whole_has_its_digest_at_once(served_patiently: httpx.Client, files: str) -> None:
    body = served_patiently.get(f"{files}/{WEIGHTS}").content
    with Reader(served_patiently, files):  # nothing can be merged meanwhile
        told = served_patiently.get(f"{files}/{WEIGHTS}/digest")
        assert told.json()["sha256"] == hashlib.sha256(body).hexdigest()


def test_what_was_sent_while_a_source_changed_has_no_digest(
    served_patiently: httpx.Client, files: str, tmp_path: Path
) -> None:
    source = tmp_path / "models" / "second" / WEIGHTS
    before = source.stat()
    with Reader(served_patiently, files) as reader:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
        body = reader.response.read()
    assert served_patiently.get(f"{files}/{WEIGHTS}/digest").status_code == 409
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    manifest = served_patiently.get(files.removesuffix("/files")).json()
    assert [file["name"] for file in manifest["files"] if file["sha256"] is None] == [WEIGHTS]
    assert hashlib.sha256(until_served(served_patiently, files)).digest() == hashlib.sha256(body).digest()


def test_the_digest_of_a_file_that_is_not_there(served: httpx.Client, files: str) -> None:
    response = served.get(f"{files}/nothing.json/digest")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


def test_a_pull_goes_on_where_it_broke_off(served: httpx.Client, files: str, tmp_path: Path) -> None:
    trial_id = files.split("/")[3]
    whole = served.get(f"{files}/{WEIGHTS}").content

    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done > len(whole) // 2:
            raise Interrupted

    with Client(str(served.base_url)) as client:
        with pytest.raises(Interrupted):
            client.pull(trial_id, tmp_path / "pulled", interrupt)
        assert not (tmp_path / "pulled").exists()
        seen = []
        client.pull(trial_id, tmp_path / "pulled", lambda *told: seen.append(told))
        assert seen[0][0] > len(whole) // 2
        assert (tmp_path / "pulled" / WEIGHTS).read_bytes() == whole
        with pytest.raises(FileExistsError):
            client.pull(trial_id, tmp_path / "pulled")
        with pytest.raises(RequestRefused, match="404"):
            client.pull("nowhere-1", tmp_path / "elsewhere")
    assert {path.name for path in tmp_path.iterdir()}.isdisjoint({"elsewhere", ".elsewhere.pull", ".pulled.pull"})
