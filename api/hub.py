"""Routes that clients of the Hugging Face Hub call: with HF_ENDPOINT set to this service they read merges by id.

A repository is `<campaign>/<trial>`, by id or number, or `<campaign>/best` and `<campaign>/knee`, which move on. Its
revisions are `main` and the commit: 24 digits of the recipe's digest, which find a trial again and stand for its
weights, then 16 of its files' ETags, since a model card changes as results come in.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from api.front import best_trial_id
from api.merged_files import file_response, merged_model
from api.service import Service, ServiceOf
from campaigns.campaign import Campaign
from campaigns.errors import NotFound
from campaigns.trial import Trial
from fronts.recommendation import By
from merging.image import MergedFile, MergedModel

MAIN = "main"
MOVING: dict[str, By | None] = {"best": None, "knee": "knee"}
COMMIT = re.compile(r"[0-9a-f]{40}")
RECIPE_DIGITS = 24
TRIAL_NUMBER = re.compile(r"(?:(?P<campaign>\w+)-)?(?P<number>\d{1,9})", re.ASCII)
TAGS = ("transformers", "safetensors", "text-generation", "mergefront", "merge")
BUSY = 429
"""Unlike 503, the status after which huggingface_hub waits for Retry-After and tries again."""
MAX_HEADER_CHARACTERS = 300


@dataclass(frozen=True)
class Repository:
    """A merged model under the name and the commit that it was asked for."""

    id: str
    trial: Trial
    model: MergedModel
    commit: str

    def headers(self) -> dict[str, str]:
        """Return what tells a client which commit a file is of."""
        return {"X-Repo-Commit": self.commit}


@dataclass(frozen=True)
class WantedPaths:
    """What `paths-info` is asked: about which files, and whether with their commits."""

    paths: tuple[str, ...]
    expand: bool


def router() -> APIRouter:
    """Return the routes. Their documents are the hub's, not ours, so that OpenAPI does not describe them."""
    routes = APIRouter(include_in_schema=False)
    address = "/api/models/{namespace}/{name}"

    @routes.get(address)
    @routes.get(address + "/revision/{revision:path}")
    def model_info(repository: RepositoryOf, service: ServiceOf, blobs: bool = False) -> dict[str, Any]:
        model = repository.model
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in model.files]
        if blobs:
            siblings = [sibling | _blob(service, model, model.files[sibling["rfilename"]]) for sibling in siblings]
        return _info(repository) | {"siblings": siblings}

    @routes.get(address + "/tree/{revision}")
    @routes.get(address + "/tree/{revision}/{path:path}")
    def tree(
        repository: RepositoryOf, service: ServiceOf, path: str = "", expand: bool = False
    ) -> list[dict[str, Any]]:
        if path.strip("/"):
            _refuse("EntryNotFound", f"{repository.id} has no folder {path!r}", repository.headers())
        return _entries(service, repository, list(repository.model.files), expand)

    @routes.post(address + "/paths-info/{revision}")
    def paths_info(repository: RepositoryOf, wanted: WantedPathsOf, service: ServiceOf) -> list[dict[str, Any]]:
        known = [name for name in repository.model.files if name in wanted.paths]
        return _entries(service, repository, known, wanted.expand)

    @routes.head("/{namespace}/{name}/resolve/{revision}/{path:path}")
    @routes.get("/{namespace}/{name}/resolve/{revision}/{path:path}")
    def resolve(repository: RepositoryOf, path: str, request: Request, service: ServiceOf) -> Response:
        if path not in repository.model.files:
            _refuse("EntryNotFound", f"{repository.id} has no file {path!r}", repository.headers())
        response = file_response(service, repository.model, path, request, BUSY)
        response.headers.update(repository.headers())
        return response

    return routes


def _repository(service: ServiceOf, namespace: str, name: str, revision: str = MAIN) -> Repository:
    """Return what a request is about. Raises `HTTPException` with the code that tells clients what is not there."""
    try:
        campaign = service.store.campaign(namespace)
        trial = service.store.trial(_trial_id(service, campaign, name))
    except NotFound as error:
        _refuse("RepoNotFound", str(error))
    if revision == MAIN:
        found = merged_model(service, campaign, trial)
        return Repository(f"{namespace}/{name}", trial, found, commit_of(found))
    if COMMIT.fullmatch(revision) is None:
        _refuse("RevisionNotFound", f"{namespace}/{name} has no revision {revision!r}: there are main and its commits")
    trial = _trial_of(service, campaign, name, trial, revision)
    return Repository(f"{namespace}/{name}", trial, merged_model(service, campaign, trial), revision)


async def _wanted_paths(request: Request) -> WantedPaths:
    """Return what a body asks about: a form, or JSON as other clients send it. Raises `HTTPException` for neither."""
    body = await request.body()
    if not request.headers.get("content-type", "").startswith("application/json"):
        form = parse_qs(body.decode(errors="replace"))
        return WantedPaths(tuple(form.get("paths", [])), form.get("expand", [""])[-1].lower() in ("true", "1"))
    try:
        document = json.loads(body)
        return WantedPaths(tuple(map(str, document["paths"])), document.get("expand") is True)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise HTTPException(400, "the body is neither a form nor a JSON object with a list of `paths`") from None


RepositoryOf = Annotated[Repository, Depends(_repository)]
WantedPathsOf = Annotated[WantedPaths, Depends(_wanted_paths)]


def commit_of(model: MergedModel) -> str:
    """Return 40 hex digits: those of its recipe that find the trial again, then of its files' names and ETags."""
    listed = json.dumps([[file.name, file.etag] for file in model.files.values()])
    files = hashlib.sha256(listed.encode()).hexdigest()
    return model.recipe.digest[:RECIPE_DIGITS] + files[: 40 - RECIPE_DIGITS]


def _trial_id(service: Service, campaign: Campaign, name: str) -> str:
    if name in MOVING:
        return best_trial_id(service, campaign, MOVING[name])
    match = TRIAL_NUMBER.fullmatch(name)
    if match is None or match["campaign"] not in (None, campaign.id):
        allowed = f"best, knee, a trial's number, or its id such as {campaign.id}-0"
        raise NotFound(f"campaign {campaign.id} has no {name!r}; it has {allowed}")
    return f"{campaign.id}-{int(match['number'])}"


def _trial_of(service: Service, campaign: Campaign, name: str, trial: Trial, commit: str) -> Trial:
    """Return the trial of a commit: the repository's own, or an earlier one of a repository that moved on."""
    prefix = commit[:RECIPE_DIGITS]
    if trial.candidate.recipe.digest.startswith(prefix):
        return trial
    if name not in MOVING:
        _refuse("RevisionNotFound", f"{campaign.id}/{name} has no commit {commit}")
    try:
        return service.store.trial_with_recipe(campaign.id, prefix)
    except NotFound as error:
        _refuse("RevisionNotFound", str(error))


def _info(repository: Repository) -> dict[str, Any]:
    """Return what the hub tells of a model, less its files."""
    trial, model = repository.trial, repository.model
    config = json.loads(b"".join(model.read("config.json")))
    return {
        "id": repository.id,
        "modelId": repository.id,
        "author": trial.campaign_id,
        "sha": repository.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": TAGS,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "config": {key: config[key] for key in ("architectures", "model_type") if key in config},
        "createdAt": _time(trial),
        "lastModified": _time(trial),
        "usedStorage": model.size_bytes,
    }


def _time(trial: Trial) -> str:
    return (trial.finished_at or trial.created_at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _entries(service: Service, repository: Repository, names: list[str], expand: bool) -> list[dict[str, Any]]:
    last_commit = {"id": repository.commit, "title": f"Merge {repository.trial.id}", "date": _time(repository.trial)}
    extra = {"lastCommit": last_commit} if expand else {}
    return [_entry(service, repository.model, repository.model.files[name]) | extra for name in names]


def _entry(service: Service, model: MergedModel, file: MergedFile) -> dict[str, Any]:
    """Describe a file as git does. Of weights, `lfs` has the sha256 once it is known; `oid` tells versions apart."""
    entry = {"type": "file", "path": file.name, "size": file.size_bytes}
    if not file.name.endswith(".safetensors"):
        return entry | {"oid": _git_digest(model, file)}
    sha256 = service.streams.digest(file)
    lfs = {} if sha256 is None else {"lfs": {"oid": sha256, "size": file.size_bytes, "pointerSize": 0}}
    return entry | {"oid": file.etag[:40], **lfs}


def _blob(service: Service, model: MergedModel, file: MergedFile) -> dict[str, Any]:
    """Describe a file as `model_info` does, in words of its own."""
    entry = _entry(service, model, file)
    lfs = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
    return {"size": entry["size"], "blobId": entry["oid"]} | lfs


def _git_digest(model: MergedModel, file: MergedFile) -> str:
    """Return git's name of a file's content, which `hf cache verify` computes too."""
    digest = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
    for block in model.read(file.name):
        digest.update(block)
    return digest.hexdigest()


def _refuse(code: str, message: str, headers: dict[str, str] | None = None) -> NoReturn:
    shown = message[:MAX_HEADER_CHARACTERS].encode("ascii", "backslashreplace").decode()
    shown = "".join(character if character.isprintable() else " " for character in shown)
    raise HTTPException(404, message, {"X-Error-Code": code, "X-Error-Message": shown, **(headers or {})})
