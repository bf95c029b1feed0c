"""The Python client of the HTTP API."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from mergefront.download import download_directory
from mergefront.settings import DEFAULT_HOST, DEFAULT_PORT

DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
TIMEOUT_SECONDS = 60.0
READ_EVERY_CHECKPOINT = httpx.Timeout(
    TIMEOUT_SECONDS, read=None
)  # a new pool is read through once: as long as it takes

Json = dict[str, Any]
Step = Literal["pause", "resume", "stop", "cancel"]
RecipeFormat = Literal["json", "mergekit"]
Split = Literal["search", "holdout"]


class RequestRefused(Exception):
    """The service answered with a problem (RFC 9457). `problem` is its document, `status` the HTTP status."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        lines = [f"{self.problem.get('title', 'Request refused')} ({status})"]
        errors = self.problem.get("errors") or []
        for error in errors:
            allowed = f" (allowed: {error['allowed']})" if error.get("allowed") else ""
            lines.append(f"  {error['field']}: {error['message']}; got {error['value']}{allowed}")
        if not errors and self.problem.get("detail"):
            lines.append(f"  {self.problem['detail']}")
        super().__init__("\n".join(lines))


class Client:
    """Talks to one Mergefront service. Every method raises `RequestRefused` when the service says no.

    Use it as a context manager, or call `close`.
    """

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def is_ready(self) -> bool:
        """Whether the service answers and a worker has published what it can do."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def launch(self, spec: Mapping[str, Any], idempotency_key: str | None = None) -> Json:
        """Create a campaign and return it. A repeated call with one `idempotency_key` creates it once."""
        key = idempotency_key or str(uuid.uuid4())
        headers = {"Idempotency-Key": key}
        return self._json("POST", "/v1/campaigns", json=dict(spec), headers=headers, timeout=READ_EVERY_CHECKPOINT)

    def validate(self, spec: Mapping[str, Any]) -> Json:
        """Check a spec as `launch` does, without creating anything."""
        return self._json("POST", "/v1/campaigns/validate", json=dict(spec), timeout=READ_EVERY_CHECKPOINT)

    def campaigns(self, limit: int = 50) -> list[Json]:
        """Return the newest campaigns first."""
        return list(self._json("GET", "/v1/campaigns", params={"limit": limit})["items"])

    def campaign(self, campaign_id: str) -> Json:
        """Return a campaign with its progress."""
        return self._json("GET", f"/v1/campaigns/{campaign_id}")

    def step(self, campaign_id: str, step: Step) -> Json:
        """Pause, resume, stop (drain and finish) or cancel a campaign."""
        return self._json("POST", f"/v1/campaigns/{campaign_id}/{step}")

    def fork(self, campaign_id: str, changes: Mapping[str, Any], idempotency_key: str | None = None) -> Json:
        """Create a campaign with the spec of another one, `changes` merged in, and its results imported; return it.

        `changes` are a JSON merge patch: `{"budget": {"evaluations": 200}}`. A repeated call with one
        `idempotency_key` creates it once.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        path = f"/v1/campaigns/{campaign_id}/fork"
        return self._json("POST", path, json=dict(changes), headers=headers, timeout=READ_EVERY_CHECKPOINT)

    def queue_points(self, campaign_id: str, points: Sequence[Mapping[str, float | str]]) -> Json:
        """Queue points beside the budget, each `{"weight.math": 0.6, ...}`; return their trials in `items`."""
        document = {"points": [dict(point) for point in points]}
        return self._json("POST", f"/v1/campaigns/{campaign_id}/points", json=document)

    def delete(self, campaign_id: str, confirm: str | None = None) -> Json:
        """Delete a campaign that is over, for good. Without its id or name in `confirm`, be told what would be lost."""
        params = {} if confirm is None else {"confirm": confirm}
        return self._json("DELETE", f"/v1/campaigns/{campaign_id}", params=params)

    def trials(self, campaign_id: str) -> Iterator[Json]:
        """Yield all trials of a campaign, by number."""
        after: int | None = -1
        while after is not None:
            page = self._json("GET", f"/v1/campaigns/{campaign_id}/trials", params={"after": after, "limit": 500})
            yield from page["items"]
            after = page["next"]

    def trial(self, trial_id: str) -> Json:
        """Return one trial with its per-item outcomes."""
        return self._json("GET", f"/v1/trials/{trial_id}")

    def recipe(self, trial_id: str, form: RecipeFormat = "json") -> Json | str:
        """Return what determines the trial's merged model: our own document, or the text of a mergekit configuration.

        A recipe that mergekit cannot make is refused as a mergekit configuration.
        """
        path, params = f"/v1/trials/{trial_id}/recipe", {"format": form}
        if form == "json":
            return self._json("GET", path, params=params)
        response = self._http.get(path, params=params)
        self._check(response)
        return response.text

    def front(self, campaign_id: str) -> Json:
        """Return the Pareto front beside the baselines, the recommendation and the macro-averages."""
        return self._json("GET", f"/v1/campaigns/{campaign_id}/front")

    def front_statistics(
        self, campaign_id: str, split: Split | None = None, prefer: Mapping[str, float] | None = None
    ) -> Json:
        """Return how far the front can be believed: paired comparisons, probabilities, gaps, warnings.

        On the holdout items by default, once the whole front has been scored there.
        """
        params = _preference(prefer) | ({"split": split} if split else {})
        return self._json("GET", f"/v1/campaigns/{campaign_id}/front/statistics", params=params)

    def best(
        self, campaign_id: str, prefer: Mapping[str, float] | None = None, by: Literal["macro", "knee"] | None = None
    ) -> Json:
        """Return the recommended trial: by macro-average, the knee, or under weights by objective name."""
        params = _preference(prefer) | ({"by": by} if by else {})
        return self._json("GET", f"/v1/campaigns/{campaign_id}/best", params=params)

    def hypervolume(self, campaign_id: str) -> Json:
        """Return the hypervolume history and its frozen reference point."""
        return self._json("GET", f"/v1/campaigns/{campaign_id}/hypervolume")

    def understanding(self, campaign_id: str) -> Json:
        """Return estimates of each parameter's importance and each checkpoint's contribution to the front."""
        return self._json("GET", f"/v1/campaigns/{campaign_id}/understanding")

    def inventory(self) -> Json:
        """Return what the workers offer: tasks with their metrics, merge methods, strategies, devices."""
        return self._json("GET", "/v1/inventory")

    def events(self, campaign_id: str, after: int = 0) -> Iterator[Json]:
        """Yield the campaign's events as they happen; ends with the campaign."""
        with self._http.stream("GET", f"/v1/campaigns/{campaign_id}/events", params={"after": after}) as response:
            if response.is_error:
                response.read()
            self._check(response)
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def pull(
        self, trial_id: str, directory: Path | str, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Path:
        """Download a trial's merged checkpoint into `directory`, which must not exist or be empty; return it.

        `trial_id` may also be `<campaign>/best` or `<campaign>/knee`: the trial that this is now. A repeated call goes
        on where an interrupted one ended; every file is checked by its digest. `progress` is called with bytes done and
        in all.
        """
        campaign_id, _, name = trial_id.partition("/")
        if name in ("best", "knee"):
            trial_id = self.best(campaign_id, by="knee" if name == "knee" else None)["id"]
        path = f"/v1/checkpoints/{quote(trial_id, safe='')}"
        return download_directory(
            self._http, lambda: self._json("GET", path)["files"], Path(directory), progress, self._check
        )

    def _json(self, method: str, path: str, **request: Any) -> Json:
        response = self._http.request(method, path, **request)
        self._check(response)
        document: Json = response.json()
        return document

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        try:
            problem = response.json()
        except ValueError:
            problem = {"title": response.reason_phrase, "detail": response.text[:500]}
        raise RequestRefused(response.status_code, problem)


def _preference(prefer: Mapping[str, float] | None) -> dict[str, str]:
    return {"prefer": ",".join(f"{name}:{weight}" for name, weight in prefer.items())} if prefer else {}
