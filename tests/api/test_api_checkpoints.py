"""Checkpoints over HTTP: bytes as `merging` writes them, in any range, and loadable."""

import os
from pathlib import Path

import httpx
import pytest
import torch
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from api.byte_ranges import UnsatisfiableRange, requested_range
from api.model_card import card_files
from api.open_pools import OpenPools
from campaigns.errors import Conflict
from merging.image import MergedModel
from merging.pool_files import PoolFiles
from storage import Store

WEIGHTS = "model.safetensors"


@pytest.fixture
def trial_id(search) -> str:
    return search.three_trials()[1].id


@pytest.fixture
def written(tmp_path: Path, store: Store, trial_id: str) -> Path:
    """The merge as `merging` writes it, without HTTP."""
    trial = store.trial(trial_id)
    campaign = store.campaign(trial.campaign_id)
    card = card_files(campaign, trial, store.baselines(campaign.id))
    directory = tmp_path / "written"
    MergedModel(PoolFiles(campaign.pool), trial.candidate.recipe, card).write_directory(directory)
    return directory


def test_the_manifest_lists_every_file(client: TestClient, trial_id: str, written: Path) -> None:
    manifest = client.get(f"/v1/checkpoints/{trial_id}").json()
    recipe = client.get(f"/v1/trials/{trial_id}").json()["candidate"]["recipe"]
    assert manifest["trial_id"] == trial_id
    assert len(manifest["recipe_digest"]) == 64
    assert recipe["method"]["weights"] == [0.75, 0.25]
    listed = {file["name"]: file["size_bytes"] for file in manifest["files"]}
    assert listed == {path.name: path.stat().st_size for path in written.iterdir()}
    assert {"README.md", "config.json", "items.search.json", "items.holdout.json", "tokenizer.json", WEIGHTS} <= set(
        listed
    )


def test_every_file_has_the_bytes_that_merging_writes(client: TestClient, trial_id: str, written: Path) -> None:
    for file in client.get(f"/v1/checkpoints/{trial_id}").json()["files"]:
        response = client.get(file["url"])
        assert response.status_code == 200
        assert response.content == (written / file["name"]).read_bytes()
        assert response.headers["etag"] == f'"{file["etag"]}"'
        assert response.headers["content-length"] == str(file["size_bytes"])
        assert response.headers["accept-ranges"] == "bytes"
        head = client.head(file["url"])
        assert (head.status_code, head.content) == (200, b"")
        for name in ("etag", "content-length", "content-type", "accept-ranges"):
            assert head.headers[name] == response.headers[name]


def test_a_pulled_checkpoint_is_a_model(served: httpx.Client, trial_id: str, tmp_path: Path, zoo: Path) -> None:
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    for file in served.get(f"/v1/checkpoints/{trial_id}").json()["files"]:
        with served.stream("GET", file["url"]) as response, (pulled / file["name"]).open("wb") as target:
            for block in response.iter_bytes():
                target.write(block)
    merged = AutoModelForCausalLM.from_pretrained(pulled).state_dict()
    math, code = (AutoModelForCausalLM.from_pretrained(zoo / name).state_dict() for name in ("math", "code"))
    for name, tensor in merged.items():
        expected = (0.75 * math[name].float() + 0.25 * code[name].float()).to(torch.bfloat16)
        assert torch.equal(tensor, expected), name
    assert AutoTokenizer.from_pretrained(pulled)("word1 word2").input_ids == [4, 5]


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, None),
        ("bytes=1001-3000", 1001, 3001),
        ("bytes=5000-99999999", 5000, None),
        ("bytes=-77", -77, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_a_range_is_that_part_of_the_file(
    client: TestClient, trial_id: str, written: Path, header: str, start: int, stop: int | None
) -> None:
    whole = (written / WEIGHTS).read_bytes()
    url = f"/v1/checkpoints/{trial_id}/files/{WEIGHTS}"
    response = client.get(url, headers={"Range": header})
    assert response.status_code == 206
    assert response.content == whole[start:stop]
    first, last, size = len(whole[:start]), len(whole[:start]) + len(response.content) - 1, len(whole)
    assert response.headers["content-range"] == f"bytes {first}-{last}/{size}"
    assert response.headers["content-length"] == str(len(response.content))
    head = client.head(url, headers={"Range": header})
    assert (head.status_code, head.headers["content-range"]) == (206, response.headers["content-range"])


def test_a_range_outside_the_file_is_refused(client: TestClient, trial_id: str, written: Path) -> None:
    size = (written / WEIGHTS).stat().st_size
    for header in (f"bytes={size}-", "bytes=-0"):
        response = client.get(f"/v1/checkpoints/{trial_id}/files/{WEIGHTS}", headers={"Range": header})
        assert response.status_code == 416
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=2-4", (2, 5)),
        ("Bytes= 2-4 ", (2, 5)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=9-9", (9, 10)),
        ("bytes=4-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_range_headers(header: str | None, expected: tuple[int, int] | None) -> None:
    assert requested_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=-0"])
def test_ranges_without_a_byte(header: str) -> None:
    with pytest.raises(UnsatisfiableRange):
        requested_range(header, 10)
    with pytest.raises(UnsatisfiableRange):
        requested_range("bytes=-1", 0)


def test_a_known_file_is_not_sent_again(client: TestClient, trial_id: str) -> None:
    url = f"/v1/checkpoints/{trial_id}/files/config.json"
    etag = client.get(url).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = client.get(url, headers={"If-None-Match": known})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_range_of_a_file_that_has_changed_is_the_whole_file(client: TestClient, trial_id: str) -> None:
    url = f"/v1/checkpoints/{trial_id}/files/{WEIGHTS}"
    etag = client.get(url).headers["etag"]
    assert client.get(url, headers={"Range": "bytes=0-9", "If-Range": etag}).status_code == 206
    whole = client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"older"'})
    assert whole.status_code == 200
    assert len(whole.content) == int(whole.headers["content-length"]) > 10


def test_files_that_the_checkpoint_does_not_have(client: TestClient, trial_id: str) -> None:
    for name in ("nothing.json", "..%2F..%2Fstore.sqlite", "%2Fetc%2Fpasswd"):
        response = client.get(f"/v1/checkpoints/{trial_id}/files/{name}")
        assert response.status_code == 404, name
        assert response.headers["content-type"] == "application/problem+json"


def test_parents_that_changed_on_disk_are_not_merged(
    client: TestClient, trial_id: str, zoo: Path, store: Store
) -> None:
    url = f"/v1/checkpoints/{trial_id}/files/{WEIGHTS}"
    assert client.get(url).status_code == 200
    weights = zoo / "code" / WEIGHTS
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    try:
        response = client.get(url)
        assert response.status_code == 409
        assert response.headers["content-type"] == "application/problem+json"
        assert "pool.checkpoints.1.path" in response.json()["detail"]
    finally:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert client.get(url).status_code == 200


def test_open_pools_are_few_and_the_same_again(store: Store, campaign_id: str, tmp_path: Path) -> None:
    pool = store.campaign(campaign_id).pool
    pools = [pool.replace(architecture=f"Architecture{i}") for i in range(3)]
    open_pools = OpenPools(capacity=2)
    first = open_pools.files(pools[0])
    assert open_pools.files(pools[0]) is first
    second = open_pools.files(pools[1])
    assert open_pools.files(pools[0]) is first
    open_pools.files(pools[2])
    assert open_pools.files(pools[0]) is first
    assert open_pools.files(pools[1]) is not second
    gone = pool.checkpoints[0].replace(path=str(tmp_path / "gone"))
    with pytest.raises(Conflict, match="not what they were"):
        open_pools.files(pool.replace(checkpoints=(gone, pool.checkpoints[1])))
