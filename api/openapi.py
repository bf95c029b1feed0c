"""What the generated OpenAPI document lacks: the problem's schema and the token."""

from typing import Any

from fastapi import FastAPI

from api.problems import Problem, documented

REFERENCE = "#/components/schemas/{model}"


def complete_openapi(app: FastAPI, needs_token: bool) -> None:
    """Let `app.openapi` describe problems, and the token where one is needed."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate(), needs_token)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any], needs_token: bool) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    problem = Problem.model_json_schema(ref_template=REFERENCE)
    schemas |= problem.pop("$defs", {})
    schemas["Problem"] = problem
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        responses = operation["responses"]
        if "422" in responses:  # FastAPI describes its own errors here, which `api.problems` replaces
            responses["422"] = documented(422)[422]
        if needs_token:
            responses["401"] = documented(401)[401]
    if needs_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document
