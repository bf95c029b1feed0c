"""The hub's own clients against a real server: by id, `best` and commit, and what is not there."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, close_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from pydantic import SecretStr
from starlette.testclient import TestClient

from api import Settings
from campaigns.campaign import Recommendation, SearchSummary
from campaigns.trial import Trial

WEIGHTS = "model.safetensors"
LOAD = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {}
for name in sys.argv[1:]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    found[name] = [tokenizer("word1 word2").input_ids, model.lm_head.weight.double().sum().item()]
print(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def closed_session() -> Iterator[None]:
    """Close the client's own connections, which it would leave open."""
    yield
    close_session()


@pytest.fixture
def told(search) -> list[Trial]:
    trials: list[Trial] = search.three_trials()
    return trials


@pytest.fixture
def hub(served: httpx.Client) -> HfApi:
    return HfApi(endpoint=str(served.base_url).rstrip("/"), token=False)


@pytest.fixture
def files_of(client: TestClient) -> Callable[[Trial], dict[str, bytes]]:
    """What our own routes give of a trial."""

    def files(trial: Trial) -> dict[str, bytes]:
        listed = client.get(f"/v1/checkpoints/{trial.id}").json()["files"]
        return {file["name"]: client.get(file["url"]).content for file in listed}

    return files


def repository(trial: Trial, name: str | None = None) -> str:
    return f"{trial.campaign_id}/{name or trial.id}"


def contents(directory: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.is_file()}


def environment(served: httpx.Client, home: Path) -> dict[str, str]:
    """Return what a user sets to read merges by id."""
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    endpoint = str(served.base_url).rstrip("/")
    return kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


def run(command: list[str], served: httpx.Client, home: Path) -> str:
    done = subprocess.run(command, env=environment(served, home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_transformers_loads_a_merge_by_id(served: httpx.Client, told: list[Trial], tmp_path: Path, files_of) -> None:
    names = [repository(told[1]), repository(told[2], "2"), repository(told[1], "best")]
    found = json.loads(run([sys.executable, "-c", LOAD, *names], served, tmp_path / "home"))
    assert {ids for ids, _ in ((tuple(ids), total) for ids, total in found.values())} == {(4, 5)}
    assert found[names[0]] == found[names[2]] != found[names[1]]
    cached = next((tmp_path / "home" / "hub").glob(f"models--{told[1].campaign_id}--best/snapshots/*"))
    assert (cached / WEIGHTS).read_bytes() == files_of(told[1])[WEIGHTS]


def test_hf_downloads_a_merge_by_id_and_finds_it_whole(
    served: httpx.Client, told: list[Trial], tmp_path: Path, files_of
) -> None:
    hf = str(Path(sys.executable).with_name("hf"))
    target, home = tmp_path / "merge", tmp_path / "home"
    run([hf, "download", repository(told[1], "best"), "--local-dir", str(target)], served, home)
    assert contents(target) == files_of(told[1])
    run([hf, "cache", "verify", repository(told[1], "best"), "--local-dir", str(target)], served, home)
    (target / WEIGHTS).write_bytes(files_of(told[2])[WEIGHTS])
    with pytest.raises(AssertionError, match="Checksum verification failed"):
        run([hf, "cache", "verify", repository(told[1], "best"), "--local-dir", str(target)], served, home)


def test_a_snapshot_has_the_bytes_that_our_own_routes_give(
    hub: HfApi, told: list[Trial], tmp_path: Path, files_of
) -> None:
    for name in (told[1].id, "1", "best"):
        directory = hub.snapshot_download(repository(told[1], name), cache_dir=tmp_path / name)
        assert contents(directory) == files_of(told[1])
    assert "# tiny: merge" in (Path(directory) / "README.md").read_text()


def test_the_model_is_described(hub: HfApi, told: list[Trial], files_of) -> None:
    info = hub.model_info(repository(told[1]), files_metadata=True)
    files = files_of(told[1])
    assert (info.id, info.author) == (repository(told[1]), told[1].campaign_id)
    assert (info.pipeline_tag, info.library_name) == ("text-generation", "transformers")
    assert info.config == {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    assert info.last_modified == told[1].finished_at
    assert {file.rfilename: file.size for file in info.siblings or ()} == {n: len(b) for n, b in files.items()}
    assert hub.list_repo_files(repository(told[1])) == sorted(files)
    assert hub.model_info(repository(told[1]), revision=info.sha).sha == info.sha


def test_paths_are_described(hub: HfApi, served: httpx.Client, told: list[Trial]) -> None:
    [config] = hub.get_paths_info(repository(told[1]), ["config.json", "nothing.json"])
    assert (config.path, config.lfs) == ("config.json", None)
    [weights] = hub.get_paths_info(repository(told[1]), WEIGHTS, expand=True)
    assert weights.last_commit.oid == hub.model_info(repository(told[1])).sha
    assert [file.path for file in hub.list_repo_tree(repository(told[1]), recursive=True, expand=True)] == (
        hub.list_repo_files(repository(told[1]))
    )
    address = f"/api/models/{repository(told[1])}/paths-info/main"
    assert [entry["path"] for entry in served.post(address, json={"paths": ["config.json"]}).json()] == ["config.json"]
    for body in (b"{", b"[]", b"null", b'{"paths": 1}', b'{"paths": null}', b"[" * 100_000):
        response = served.post(address, content=body, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json"), body[:20]


def test_what_is_not_there_is_told_in_the_hubs_words(hub: HfApi, told: list[Trial], tmp_path: Path) -> None:
    campaign_id = told[1].campaign_id
    for name in (f"{campaign_id}/99", f"{campaign_id}/{told[1].id}9", f"{campaign_id}/other", "nowhere/best", "a/b"):
        with pytest.raises(RepositoryNotFoundError):
            hub.model_info(name)
        with pytest.raises(RepositoryNotFoundError):
            hub.hf_hub_download(name, "config.json", cache_dir=tmp_path)
    for revision in ("refs/pr/1", "v1", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            hub.model_info(repository(told[1]), revision=revision)
        with pytest.raises(RevisionNotFoundError):
            hub.hf_hub_download(repository(told[1]), "config.json", revision=revision, cache_dir=tmp_path)
    for name in ("nothing.json", "folder/config.json"):
        with pytest.raises(EntryNotFoundError):
            hub.hf_hub_download(repository(told[1]), name, cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        [*hub.list_repo_tree(repository(told[1]), "folder")]
    assert hub.file_exists(repository(told[1]), "config.json")
    assert not hub.file_exists(repository(told[1]), "nothing.json")
    assert hub.revision_exists(repository(told[1]), "main")
    assert not hub.repo_exists("nowhere/best")


def test_a_trial_of_another_campaign_is_not_there(client: TestClient, told: list[Trial], spec) -> None:
    other = client.post("/v1/campaigns", json={**spec, "name": "other"}).json()["id"]
    response = client.get(f"/api/models/{other}/{told[1].id}")
    assert (response.status_code, response.headers["x-error-code"]) == (404, "RepoNotFound")
    assert "best, knee, a trial's number" in response.json()["detail"]
    nothing = client.get(f"/api/models/{other}/best")
    assert (nothing.status_code, nothing.headers["x-error-code"]) == (404, "RepoNotFound")
    assert "found nothing yet" in nothing.headers["x-error-message"]


def test_names_that_do_not_fit_a_header_are_refused(client: TestClient, told: list[Trial]) -> None:
    for name in ("%0dSet-Cookie:%20a=b", "%C3%A9%E2%82%AC", "x" * 4000, "%00", "..%2f..%2fetc"):
        response = client.get(f"/{repository(told[1])}/resolve/main/{name}")
        assert (response.status_code, response.headers["x-error-code"]) == (404, "EntryNotFound"), name
        assert "set-cookie" not in response.headers
        assert client.get(f"/api/models/{told[1].campaign_id}/{name}").status_code == 404, name
    assert client.get(f"/{repository(told[1])}/resolve/main/%0d%0aSet-Cookie:%20a=b").status_code == 404


def test_heads_carry_what_clients_ask_for(client: TestClient, told: list[Trial]) -> None:
    url = f"/{repository(told[1])}/resolve/main/{WEIGHTS}"
    ours = client.head(f"/v1/checkpoints/{told[1].id}/files/{WEIGHTS}")
    head = client.head(url)
    assert head.status_code == 200
    for name in ("etag", "content-length", "accept-ranges"):
        assert head.headers[name] == ours.headers[name]
    assert len(head.headers["x-repo-commit"]) == 40
    assert not [name for name in head.headers if "xet" in name]
    part = client.get(url, headers={"Range": "bytes=8-15"})
    assert (part.status_code, len(part.content)) == (206, 8)
    missing = client.head(f"/{repository(told[1])}/resolve/main/adapter_config.json")
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")
    assert missing.headers["x-repo-commit"] == head.headers["x-repo-commit"]


def test_the_knee_is_a_repository_too(client: TestClient, hub: HfApi, told: list[Trial]) -> None:
    knee = client.get(f"/v1/campaigns/{told[1].campaign_id}/best?by=knee").json()["id"]
    sha = hub.model_info(repository(told[1], knee)).sha
    assert hub.model_info(repository(told[1], "knee")).sha == sha


def test_a_best_that_moves_on_is_a_new_commit_and_the_old_one_still_answers(
    hub: HfApi, search, told: list[Trial], tmp_path: Path, files_of
) -> None:
    best = repository(told[1], "best")
    old = hub.model_info(best).sha
    summary = SearchSummary(
        front=(told[1].id, told[2].id), recommendation=Recommendation(trial_id=told[2].id, reason="better")
    )
    last = search.run(search.candidate(0.125), 0.25, 9.0, summary)
    new = hub.model_info(best).sha
    assert new == hub.model_info(repository(told[2])).sha != old
    newest = hf_hub_download(best, WEIGHTS, endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    assert Path(newest).read_bytes() == files_of(told[2])[WEIGHTS]
    pinned = snapshot_download(best, revision=old, endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    assert contents(pinned) == files_of(told[1])
    assert (Path(newest).parent.name, Path(pinned).name) == (new, old)
    with pytest.raises(RevisionNotFoundError):
        hub.model_info(repository(last), revision=old)


def test_best_is_judged_by_holdout_once_the_front_is_scored_there(hub: HfApi, search, told: list[Trial]) -> None:
    best = repository(told[1], "best")
    assert hub.model_info(best).sha == hub.model_info(repository(told[1])).sha
    search.store.add_holdout(search.lease, told[2].id, search.evaluated(0.875, 4.0, "holdout"))
    assert hub.model_info(best).sha == hub.model_info(repository(told[2])).sha


def test_a_model_card_that_changes_is_a_new_commit_and_the_old_one_still_answers(
    hub: HfApi, search, told: list[Trial], tmp_path: Path
) -> None:
    """Clients keep listings and files by commit, and would never see the scores that came later."""
    name = repository(told[2])
    old = hub.model_info(name).sha
    hub.snapshot_download(name, cache_dir=tmp_path)
    search.store.add_holdout(search.lease, told[2].id, search.evaluated(0.875, 4.0, "holdout"))
    assert hub.model_info(name).sha != old
    assert hub.model_info(name, revision=old).sha == old
    directory = Path(hub.snapshot_download(name, cache_dir=tmp_path))
    assert (directory / "items.holdout.json").is_file()
    assert "0.8750 ± 0.2500" in (directory / "README.md").read_text()


def test_a_token_of_the_service_is_the_hubs_token(serve, settings: Settings, told: list[Trial], tmp_path: Path) -> None:
    endpoint = str(serve(settings.replace(token=SecretStr("sesame"))).base_url).rstrip("/")
    api = HfApi(endpoint=endpoint, token="sesame")
    assert [*api.get_paths_info(repository(told[1]), "config.json")]
    assert Path(api.hf_hub_download(repository(told[1]), "config.json", cache_dir=tmp_path)).is_file()
    for token in (False, "wrong"):
        with pytest.raises(HfHubHTTPError, match="401"):
            HfApi(endpoint=endpoint, token=token).model_info(repository(told[1]))


def test_the_dashboard_and_the_api_keep_their_addresses(client: TestClient, told: list[Trial]) -> None:
    assert "text/html" in client.get(f"/campaigns/{told[1].campaign_id}").headers["content-type"]
    assert client.get("/static/app.css").status_code == 200
    assert client.get(f"/v1/campaigns/{told[1].campaign_id}/best").status_code == 200
    assert client.get(f"/campaigns/{told[1].id}/resolve/main/config.json").status_code == 404
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "resolve" in path]
