"""Examples that the OpenAPI document shows: of requests, and of what they are answered.

Answers are made of the nouns themselves, so that they cannot be out of date.
"""

import json
from datetime import UTC, datetime
from typing import Any

from api.campaign_views import CampaignPage, CampaignView, progress
from campaigns.campaign import Campaign, Event, Recommendation, SearchSummary
from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.recipe import Recipe
from campaigns.spec import MAX_POINTS, parse_spec
from campaigns.states import CampaignState, TrialState
from campaigns.trial import Candidate, Timing, Trial

STARTED = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
TOLD = datetime(2026, 3, 1, 9, 5, tzinfo=UTC)
CAMPAIGN_ID = "k7x2m4qa"
TRIAL_ID = f"{CAMPAIGN_ID}-7"
ETAG = {"ETag": {"description": "Changes with every change of the campaign", "schema": {"type": "string"}}}

SPEC_EXAMPLE: dict[str, Any] = {
    "name": "generalists",
    "pool": {
        "checkpoints": [
            {"name": "math", "path": "/models/math"},
            {"name": "code", "path": "/models/code"},
        ]
    },
    "space": {"kind": "linear", "normalize": "sum"},
    "objectives": [
        {"task": "gsm8k", "metric": "exact_match", "filter": "strict-match"},
        {"task": "arc_easy", "metric": "acc"},
    ],
    "strategy": {"kind": "nsga2"},
    "budget": {"evaluations": 96},
}

SPEC: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A campaign spec, as JSON or YAML",
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": SPEC_EXAMPLE},
            "application/yaml": {"schema": {"type": "object"}},
        },
    }
}
"""The body is read by hand, since it may be YAML, so that FastAPI cannot describe it."""

EDIT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "What is to change: name, notes or both",
        "content": {
            media_type: {
                "schema": {"$ref": "#/components/schemas/CampaignEdit"},
                "example": {"notes": "The front to beat: code gained most."},
            }
            for media_type in ("application/json", "application/merge-patch+json")
        },
    }
}


FORK: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A JSON merge patch (RFC 7396) of the spec; an object of another kind is replaced as a whole",
        "content": {
            media_type: {"schema": {"type": "object"}, "example": {"budget": {"evaluations": 200}}}
            for media_type in ("application/json", "application/merge-patch+json")
        },
    }
}

POINTS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Points with every coordinate of the space, as in warm_start.points",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["points"],
                    "properties": {
                        "points": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MAX_POINTS,
                            "items": {
                                "type": "object",
                                "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                            },
                        }
                    },
                },
                "example": {"points": [{"weight.math": 0.6, "weight.code": 0.4}]},
            }
        },
    }
}


def _pool() -> Pool:
    checkpoints = tuple(
        Checkpoint(name=name, path=f"/models/{name}", digest=digit * 64, stamp=digit * 64, size_bytes=988_097_824)
        for name, digit in (("math", "1"), ("code", "2"))
    )
    return Pool(
        checkpoints=checkpoints, base=None, dtype="bfloat16", architecture="Qwen2ForCausalLM", parameter_count=494032768
    )


def _campaign() -> CampaignView:
    recommendation = Recommendation(trial_id=TRIAL_ID, reason="the best macro-average")
    campaign = Campaign(
        id=CAMPAIGN_ID,
        spec=parse_spec(SPEC_EXAMPLE),
        pool=_pool(),
        state=CampaignState.RUNNING,
        summary=SearchSummary(
            front=(TRIAL_ID,), reference_point=(0.0, 0.0), hypervolume=0.25, recommendation=recommendation
        ),
        trial_counts={TrialState.COMPLETE: 8, TrialState.RUNNING: 2},
        created_at=STARTED,
        updated_at=TOLD,
        started_at=STARTED,
        worker_id="node-1-4242-9f3c1a",
    )
    return CampaignView(**dict(campaign), progress=progress(campaign, 512.0, 1600, TOLD))


def _trial() -> dict[str, Any]:
    sources = tuple(checkpoint.digest for checkpoint in _pool().checkpoints)
    recipe = Recipe(method=LinearMerge(weights=(0.6, 0.4)), sources=sources, template=sources[0], dtype="bfloat16")
    candidate = Candidate(point=(0.6, 0.4), parameters={"weight.math": 0.6, "weight.code": 0.4}, recipe=recipe)
    measured: dict[str, Any] = {"split": "search", "items": 100, "standard_error": 0.05, "protocol": "3" * 64}
    trial = Trial(
        id=TRIAL_ID,
        campaign_id=CAMPAIGN_ID,
        number=7,
        candidate=candidate,
        state=TrialState.COMPLETE,
        attempts=1,
        actor="10.0.0.5:4711",
        created_at=STARTED,
        started_at=STARTED,
        finished_at=TOLD,
        told=7,
        hypervolume=0.25,
        measurements=(
            Measurement(objective="gsm8k/exact_match@strict-match", value=0.41, **measured),
            Measurement(objective="arc_easy/acc", value=0.63, **measured),
        ),
        timings={"search": Timing(merge_seconds=0.8, model_seconds=60.5, total_seconds=62.0)},
    )
    return trial.model_dump(mode="json") | {"feasible": True, "violations": []}


def _answer(status: int, description: str, example: Any, headers: dict[str, Any] | None = None) -> dict[Any, Any]:
    """Return the answer with its example as text, which `api.openapi` reads: FastAPI would drop what is null in it."""
    content = {"application/json": {"example": json.dumps(example)}}
    answer: dict[str, Any] = {"description": description, "content": content}
    return {status: answer | ({"headers": headers} if headers else {})}


CAMPAIGN_EXAMPLE = _campaign().model_dump(mode="json")
LAUNCHED = _answer(201, "The campaign", CAMPAIGN_EXAMPLE, ETAG)
CAMPAIGN = _answer(200, "The campaign as it is now", CAMPAIGN_EXAMPLE, ETAG)
CAMPAIGN_OR_304 = CAMPAIGN | {304: {"description": "It is what If-None-Match says", "headers": ETAG}}
CAMPAIGN_PAGE = _answer(200, "Campaigns", CampaignPage(items=(_campaign(),), next=CAMPAIGN_ID).model_dump(mode="json"))
TRIAL_EXAMPLE = _trial()
TRIAL = _answer(200, "The trial", TRIAL_EXAMPLE)
TRIAL_PAGE = _answer(200, "Trials", {"items": [TRIAL_EXAMPLE], "next": 7, "next_cursor": "WyJudW1iZXIiLCA3LCA3XQ"})
_QUEUED = {"items": [TRIAL_EXAMPLE], "created": 1}
POINTS_QUEUED = _answer(201, "Trials, new ones among them", _QUEUED) | _answer(
    200, "Trials that were there already", _QUEUED | {"created": 0}
)
# The other answer has its schema from the route.
POINTS_QUEUED[200]["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/QueuedPoints"}
DELETED = _answer(
    200,
    "What was deleted",
    {"id": CAMPAIGN_ID, "name": "generalists", "trials": 101, "evaluations": 101, "search_item_evaluations": 20200},
)
READY = _answer(200, "Ready", {"status": "ready", "workers": ["node-1-4242-9f3c1a"]})

_EVENT = Event(id=31, campaign_id=CAMPAIGN_ID, kind="trial.complete", trial_id=TRIAL_ID, data={"told": 7}, at=TOLD)
EVENTS: dict[Any, Any] = {
    200: {
        "description": "Events as text/event-stream: `id`, `event` and, as JSON, `data`",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": f"id: 31\nevent: trial.complete\ndata: {_EVENT.model_dump_json()}\n\n",
            }
        },
    }
}
METRICS: dict[Any, Any] = {
    200: {
        "description": "Figures in Prometheus' text format",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "mergefront_workers_alive 2\n"}},
    }
}
PROBLEMS: dict[int, dict[str, Any]] = {
    404: {"type": "urn:mergefront:problem:not-found", "title": "Not found", "detail": "no campaign 'k7x2m4qb'"},
    409: {
        "type": "urn:mergefront:problem:illegal-transition",
        "title": "Illegal transition",
        "detail": "a complete campaign cannot pause; allowed: none: this state is final",
    },
    410: {
        "type": "urn:mergefront:problem:gone",
        "title": "Gone",
        "detail": "campaign k7x2m4qa was deleted at 2026-03-02 08:00:00 UTC",
    },
    412: {
        "type": "urn:mergefront:problem:changed-meanwhile",
        "title": "Changed meanwhile",
        "detail": "campaign k7x2m4qa has changed since it was read",
    },
    422: {
        "type": "urn:mergefront:problem:invalid-input",
        "title": "Invalid input",
        "detail": "limit: Input should be greater than or equal to 1; got '0'",
        "errors": [
            {
                "field": "limit",
                "value": "'0'",
                "message": "Input should be greater than or equal to 1",
                "allowed": None,
            }
        ],
    },
    500: {
        "type": "about:blank",
        "title": "Internal Server Error",
        "detail": "Something broke; the service's log says what.",
        "request_id": "5f0c2b1e9a6d4e5f8b7a6c5d4e3f2a1b",
    },
    503: {
        "type": "urn:mergefront:problem:not-ready",
        "title": "Not ready",
        "detail": "the database does not answer",
    },
}
"""Problems with some statuses, without what every one says of its own request."""


def problem_example(status: int, path: str) -> dict[str, Any] | None:
    """Return the example of a problem with a request of `path`, None where there is none of this status."""
    if status not in PROBLEMS:
        return None
    return {"errors": [], **PROBLEMS[status], "status": status, "instance": path.format_map(_Ids())}


class _Ids(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return {"campaign_id": CAMPAIGN_ID, "trial_id": TRIAL_ID}.get(name, name)
