"""The routes of the dashboard: two pages and the files they load, all from installed packages."""

import importlib.metadata
import importlib.resources
from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

PLOTLY = "plotly.min.js"
PLOTLY_VERSION_MARK = "PLOTLY_VERSION"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
REVALIDATE = "no-cache"
"""Our own files: kept by the browser, asked for again by ETag, so that an upgrade shows at once."""
YEAR_LONG = "public, max-age=31536000, immutable"
"""Plotly's script: pages ask for it by its version, so it never changes under its address."""


def router() -> APIRouter:
    """Return the dashboard's routes: `/`, `/campaigns/{id}` and `/static/{file}`.

    The pages are the same for every campaign and hold no data: their scripts read the JSON API. Only files listed when
    the router is built are served, so that no name from outside ever becomes a path.
    """
    static = _static_files()
    pages = {name: _page(name) for name in ("campaigns.html", "campaign.html")}
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def campaigns_page() -> HTMLResponse:
        return HTMLResponse(pages["campaigns.html"], headers={"Cache-Control": REVALIDATE})

    @routes.get("/campaigns/{campaign_id}")
    def campaign_page(campaign_id: str) -> HTMLResponse:
        return HTMLResponse(pages["campaign.html"], headers={"Cache-Control": REVALIDATE})

    @routes.get("/static/{name}")
    def static_file(name: str, request: Request) -> Response:
        if name not in static:
            raise HTTPException(404, f"no static file {name!r}")
        return _file(static[name], request.headers.get("if-none-match"))

    return routes


def _file(path: Path, known_etag: str | None) -> Response:
    """Return the file, or 304 without a body where the browser has it already."""
    response = FileResponse(path, media_type=MEDIA_TYPES[path.suffix], stat_result=path.stat())
    response.headers["Cache-Control"] = YEAR_LONG if path.name == PLOTLY else REVALIDATE
    if known_etag == response.headers["etag"]:
        kept = {name: response.headers[name] for name in ("etag", "cache-control")}
        return Response(status_code=304, headers=kept)
    return response


def _page(name: str) -> str:
    """Return a page's HTML, its Plotly address completed with the installed version."""
    text = (_package("dashboard") / "static" / name).read_text(encoding="utf-8")
    return text.replace(PLOTLY_VERSION_MARK, importlib.metadata.version("plotly"))


def _static_files() -> dict[str, Path]:
    return {path.name: path for path in _served()}


def _served() -> Iterator[Path]:
    yield _package("plotly") / "package_data" / PLOTLY
    for path in (_package("dashboard") / "static").iterdir():
        if path.suffix in MEDIA_TYPES:
            yield path


def _package(name: str) -> Path:
    return Path(str(importlib.resources.files(name)))
