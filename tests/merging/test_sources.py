"""Where checkpoints may come from: roots that nothing escapes, and a real hub client against a local hub."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest

from campaigns.errors import InvalidCheckpoint
from campaigns.pools import CheckpointSpec
from merging.checkpoint import CheckpointFiles
from merging.sources import locate

COMMIT = "a" * 40
FIELD = "pool.checkpoints.1"


def find(path: object, *roots: Path) -> Path:
    return locate(CheckpointSpec(name="x", path=str(path)), FIELD, roots, [], None)


def refusal(path: object, *roots: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        find(path, *roots)
    assert [error.field for error in caught.value.errors] == [f"{FIELD}.path"]
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model root with a model in it, beside a folder that must stay out of reach."""
    (tmp_path / "root" / "models" / "a").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    return tmp_path / "root"


def test_absolute_and_relative_paths_under_a_root(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "b").mkdir(parents=True)
    assert find(root / "models" / "a", other, root) == root / "models" / "a"
    assert find("models/a", other, root) == root / "models" / "a"
    assert find("models/../models/a/.", root) == root / "models" / "a"
    assert find("b", root, other) == other / "b"


def test_a_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert find("models/a", tmp_path / "link") == root / "models" / "a"
    assert find(tmp_path / "link" / "models" / "a", tmp_path / "link") == root / "models" / "a"


@pytest.mark.parametrize("path", ["../secret", "models/../../secret", "{parent}/secret", "/etc", "/", "../root-2"])
def test_paths_outside_the_roots(root: Path, path: str) -> None:
    (root.parent / "root-2").mkdir()
    found = refusal(path.format(parent=root.parent), root)
    assert "outside the model roots" in found
    assert str(root) in found


def test_outside_paths_do_not_say_whether_they_exist(root: Path) -> None:
    there, absent = refusal(root.parent / "secret", root), refusal(root.parent / "absent", root)
    assert there.replace("secret", "absent") == absent


def test_links_that_lead_outside(root: Path) -> None:
    (root / "escape").symlink_to(root.parent / "secret")
    assert "outside the model roots" in refusal("escape", root)
    (root / "models" / "a" / "config.json").symlink_to(root.parent / "secret" / "config.json")
    found = refusal("models/a", root)
    assert "config.json is a link that leads outside" in found


def test_links_that_stay_inside(root: Path) -> None:
    (root / "alias").symlink_to(root / "models" / "a")
    (root / "models" / "blob").write_text("{}")
    (root / "models" / "a" / "config.json").symlink_to("../blob")
    assert find("alias", root) == root / "models" / "a"


@pytest.mark.parametrize("path", ["models/none", "models/a/config.json", "a\0b", "x" * 5000])
def test_unusable_paths(root: Path, path: str) -> None:
    (root / "models" / "a" / "config.json").write_text("{}")
    assert refusal(path, root)


def test_a_loop_of_links(root: Path) -> None:
    (root / "loop").symlink_to(root / "loop")
    assert refusal("loop", root)


def test_no_root_configured(root: Path) -> None:
    assert "no model root is configured" in refusal(root / "models" / "a")


class Hub(BaseHTTPRequestHandler):
    """The few routes of the hub that its client asks for, over one folder; `asked` keeps the paths."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        type(self).asked.append(path)
        files = sorted(self.folder.iterdir())
        if path.startswith(("/api/models/owner/model/tree/",)):
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name.ljust(40, "0")} for f in files
            ]
            self.reply(json.dumps(tree).encode(), with_body, {"Content-Type": "application/json"})
        elif path.startswith("/api/models/owner/model"):
            info = {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}
            self.reply(json.dumps(info).encode(), with_body, {"Content-Type": "application/json"})
        elif path.startswith(f"/owner/model/resolve/{COMMIT}/"):
            name = path.rsplit("/", 1)[1]
            content = (self.folder / name).read_bytes()
            self.reply(content, with_body, {"ETag": f'"{name}-etag"', "X-Repo-Commit": COMMIT})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def reply(self, content: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def hub(make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A local hub with one repository that has, beside a checkpoint, files that must not be fetched."""
    folder = make_checkpoint("hub-model")
    for name in ("pytorch_model.bin", "modeling_evil.py", "training_args.bin", "README.md", "optimizer.safetensors"):
        (folder / name).write_bytes(b"do not fetch")
    server_class = type("OneHub", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), server_class)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield server_class
    server.shutdown()
    server.server_close()


def fetch(
    repository: str, cache: Path, revision: str | None = None, allowed: tuple[str, ...] = ("owner/model",)
) -> Path:
    return locate(CheckpointSpec(name="x", hub=repository, revision=revision), FIELD, [], allowed, cache)


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_hub_repository_is_fetched_without_pickles_or_code(
    hub: type[Hub], tmp_path: Path, revision: str | None
) -> None:
    path = fetch("owner/model", tmp_path / "cache", revision)
    fetched = {file.name for file in path.iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert fetched == wanted
    assert (path / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    assert CheckpointFiles(path).tensors
    assert not any(name in path for path in hub.asked for name in (".bin", ".py"))


def test_fetched_again_from_the_cache(hub: type[Hub], tmp_path: Path) -> None:
    first = fetch("owner/model", tmp_path / "cache")
    hub.asked.clear()
    assert fetch("owner/model", tmp_path / "cache") == first
    assert not any("/resolve/" in path for path in hub.asked)


def test_hub_repository_off_the_list_is_never_asked_for(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint) as caught:
        fetch("owner/modle", tmp_path)
    assert caught.value.errors[0].field == f"{FIELD}.hub"
    assert "did you mean 'owner/model'" in str(caught.value)
    assert hub.asked == []


def test_hub_repository_that_is_not_there(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="cannot be fetched") as caught:
        fetch("owner/gone", tmp_path, "main", ("owner/gone",))
    assert "owner/gone@main" in caught.value.errors[0].value
