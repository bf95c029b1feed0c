"""Examples that the OpenAPI document shows."""

from typing import Any

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
