"""A trial's merged model, and the answer to a request for one of its files."""

from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from starlette.datastructures import Headers

from api.byte_ranges import UnsatisfiableRange, requested_range
from api.model_card import card_files
from api.service import Service
from api.streams import FileStream, is_weights
from campaigns.campaign import Campaign
from campaigns.trial import Trial
from merging.image import MergedFile, MergedModel

MEDIA_TYPES = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".txt": "text/plain; charset=utf-8"}
BINARY = "application/octet-stream"


def merged_model(service: Service, campaign: Campaign, trial: Trial) -> MergedModel:
    """Return the model of a trial, which comes with its outcomes. Raises `Conflict` for sources that have changed."""
    files = service.pools.files(campaign.pool)
    card = card_files(campaign, trial, service.store.baselines(campaign.id))
    return MergedModel(files, trial.candidate.recipe, card)


def file_response(
    service: Service, model: MergedModel, name: str, request: Request, busy_status: int = 503
) -> Response:
    """Answer GET and HEAD for a file that the model has, heeding Range, If-Range and If-None-Match.

    `busy_status` is the answer to a GET of weights when all streams are taken. Raises `HTTPException` 416 for a range
    outside the file.
    """
    file = model.files[name]
    if _is_known(request.headers.get("if-none-match"), file):
        return Response(status_code=304, headers=_headers(file))
    extent = _extent(request.headers, file)
    headers = _headers(file)
    start, stop = extent or (0, file.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if extent is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size_bytes}"
    status = 200 if extent is None else 206
    media_type = MEDIA_TYPES.get(PurePosixPath(name).suffix, BINARY)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    streams = service.streams
    is_whole_merge = is_weights(file) and (start, stop) == (0, file.size_bytes)
    blocks = streams.digested(model, name) if is_whole_merge else model.read(name, start, stop)
    slot = streams.slot_for(file, stop - start, busy_status)
    return FileStream(blocks, status, headers, media_type, slot, streams.stall_seconds)


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
