"""Routes of merged checkpoints: a manifest, and files whose bytes are merged while they are sent."""

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers

from api.byte_ranges import UnsatisfiableRange, requested_range
from api.model_card import card_files
from api.problems import documented
from api.service import Service, ServiceOf
from campaigns.errors import NotFound
from campaigns.noun import Noun
from merging.image import MergedFile, MergedModel

MEDIA_TYPES = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".txt": "text/plain; charset=utf-8"}
BINARY = "application/octet-stream"


class FileEntry(Noun):
    """One file of a merged model. Equal `etag`, equal bytes."""

    name: str
    size_bytes: int
    etag: str
    url: str


class Manifest(Noun):
    """The files of a merged model, by name."""

    trial_id: str
    recipe_digest: str
    files: tuple[FileEntry, ...]


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/checkpoints/{trial_id}", tags=["checkpoints"])
    described: dict[int | str, dict[str, Any]] = {
        200: {"description": "The file", "content": {BINARY: {}}},
        206: {"description": "The requested range of it"},
        304: {"description": "The file has the ETag of If-None-Match"},
        **documented(404, 409, 416),
    }

    @routes.get("", responses=documented(404, 409))
    def manifest(trial_id: str, service: ServiceOf) -> Manifest:
        """Return name, size, ETag and address of every file of the trial's merged model."""
        model = _model(service, trial_id)
        files = tuple(_entry(trial_id, file) for file in model.files.values())
        return Manifest(trial_id=trial_id, recipe_digest=model.recipe.digest, files=files)

    @routes.head("/files/{name}", include_in_schema=False)
    @routes.get("/files/{name}", response_class=StreamingResponse, responses=described)
    def file(trial_id: str, name: str, request: Request, service: ServiceOf) -> Response:
        """Send a file, or the one range of it that Range asks for. Weights are merged as they are sent.

        If-None-Match and If-Range are heeded. Nothing is written to disk.
        """
        model = _model(service, trial_id)
        if name not in model.files:
            raise NotFound(f"the checkpoint has no file {name!r}; it has {', '.join(model.files)}")
        found = model.files[name]
        if _is_known(request.headers.get("if-none-match"), found):
            return Response(status_code=304, headers=_headers(found))
        extent = _extent(request.headers, found)
        return _response(model, found, extent, with_body=request.method != "HEAD")

    return routes


def _model(service: Service, trial_id: str) -> MergedModel:
    trial = service.store.trial(trial_id)
    campaign = service.store.campaign(trial.campaign_id)
    files = service.pools.files(campaign.pool)
    card = card_files(campaign, trial, service.store.baselines(campaign.id))
    return MergedModel(files, trial.candidate.recipe, card)


def _entry(trial_id: str, file: MergedFile) -> FileEntry:
    url = f"/v1/checkpoints/{quote(trial_id)}/files/{quote(file.name)}"
    return FileEntry(name=file.name, size_bytes=file.size_bytes, etag=file.etag, url=url)


def _headers(file: MergedFile) -> dict[str, str]:
    return {
        "ETag": f'"{file.etag}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name)}",
    }


def _is_known(if_none_match: str | None, file: MergedFile) -> bool:
    if if_none_match is None:
        return False
    given = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return "*" in given or f'"{file.etag}"' in given


def _extent(headers: Headers, file: MergedFile) -> tuple[int, int] | None:
    """Return start and stop of the range that is asked for, None for the whole file."""
    if headers.get("if-range", f'"{file.etag}"').strip() != f'"{file.etag}"':
        return None
    wanted = headers.get("range")
    try:
        return requested_range(wanted, file.size_bytes)
    except UnsatisfiableRange:
        detail = f"{file.name} has {file.size_bytes} bytes; none of them lies in the range {wanted!r}"
        raise HTTPException(416, detail, {"Content-Range": f"bytes */{file.size_bytes}"}) from None


def _response(model: MergedModel, file: MergedFile, extent: tuple[int, int] | None, with_body: bool) -> Response:
    headers = _headers(file)
    start, stop = extent or (0, file.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if extent is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size_bytes}"
    status = 200 if extent is None else 206
    media_type = MEDIA_TYPES.get(PurePosixPath(file.name).suffix, BINARY)
    if not with_body:
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(model.read(file.name, start, stop), status, headers, media_type)
