"""Routes of merged checkpoints: a manifest, files whose bytes are merged while they are sent, and their digests."""

from typing import Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect

from api.merged_files import BINARY, file_response, merged_model
from api.problems import documented
from api.service import Service, ServiceOf
from campaigns.errors import NotFound
from campaigns.noun import Noun
from merging.image import MergedFile, MergedModel

BUSY = 503


class FileEntry(Noun):
    """One file of a merged model. Equal `etag`, equal bytes. `sha256` (hex) is None where nobody has merged it yet."""

    name: str
    size_bytes: int
    etag: str
    sha256: str | None
    url: str


class Manifest(Noun):
    """The files of a merged model, by name."""

    trial_id: str
    recipe_digest: str
    files: tuple[FileEntry, ...]


class FileDigest(Noun):
    """What a file's bytes hash to: `sha256` in hex. `etag` says of which version of the file."""

    name: str
    size_bytes: int
    etag: str
    sha256: str


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/checkpoints/{trial_id}", tags=["checkpoints"])
    described: dict[int | str, dict[str, Any]] = {
        200: {"description": "The file", "content": {BINARY: {}}},
        206: {"description": "The requested range of it"},
        304: {"description": "The file has the ETag of If-None-Match"},
        **documented(404, 409, 416, BUSY),
    }

    @routes.get("", responses=documented(404, 409))
    def manifest(trial_id: str, service: ServiceOf) -> Manifest:
        """Return name, size, ETag and address of every file of the trial's merged model."""
        model = _model(service, trial_id)
        files = tuple(_entry(service, trial_id, file) for file in model.files.values())
        return Manifest(trial_id=trial_id, recipe_digest=model.recipe.digest, files=files)

    @routes.head("/files/{name}", include_in_schema=False)
    @routes.get("/files/{name}", response_class=StreamingResponse, responses=described)
    def file(trial_id: str, name: str, request: Request, service: ServiceOf) -> Response:
        """Send a file, or the one range of it that Range asks for. Weights are merged as they are sent.

        If-None-Match and If-Range are heeded. Nothing is written to disk. When as many weights are being sent as may
        be at once, the request waits for a few seconds, and is then refused with Retry-After.
        """
        model = _model(service, trial_id)
        return file_response(service, model, _found(model, name).name, request, BUSY)

    @routes.get("/files/{name}/digest", responses=documented(404, 409, BUSY))
    async def digest(trial_id: str, name: str, request: Request, service: ServiceOf) -> FileDigest:
        """Return the sha256 of a file's bytes, to check a download against.

        It is known of weights that were sent from start to end. Others are merged for it, which takes as long as
        sending them and counts as a stream.
        """
        model = await to_thread.run_sync(_model, service, trial_id)
        found = _found(model, name)
        if service.streams.digest(found) is None:
            await _merge_whole(service, model, found, request)
        sha256 = service.streams.digest(found)
        assert sha256 is not None
        return FileDigest(name=name, size_bytes=found.size_bytes, etag=found.etag, sha256=sha256)

    return routes


async def _merge_whole(service: Service, model: MergedModel, file: MergedFile, request: Request) -> None:
    """Merge a file for its digest alone, unless nobody waits for it any more."""
    async with service.streams.slot(BUSY):
        async for _ in iterate_in_threadpool(service.streams.digested(model, file.name)):
            if await request.is_disconnected():
                raise ClientDisconnect


def _model(service: Service, trial_id: str) -> MergedModel:
    trial = service.store.trial(trial_id)
    return merged_model(service, service.store.campaign(trial.campaign_id), trial)


def _found(model: MergedModel, name: str) -> MergedFile:
    if name not in model.files:
        raise NotFound(f"the checkpoint has no file {name!r}; it has {', '.join(model.files)}")
    return model.files[name]


def _entry(service: Service, trial_id: str, file: MergedFile) -> FileEntry:
    url = f"/v1/checkpoints/{quote(trial_id)}/files/{quote(file.name)}"
    sha256 = service.streams.digest(file)
    return FileEntry(name=file.name, size_bytes=file.size_bytes, etag=file.etag, sha256=sha256, url=url)
