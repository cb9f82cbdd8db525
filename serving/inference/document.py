"""What the OpenAPI document says beyond the routes: the keys of the gate, refusals, and the headers of every answer."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.inference.answers import ChatCompletionChunk
from serving.inference.auth import ADMIN_PATHS, OPEN_PATHS
from serving.inference.errors import REQUEST_ID_HEADER
from serving.inference.protocol import ErrorBody

EVENT_STREAM = "text/event-stream"
SCHEMAS = "#/components/schemas/{model}"
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "Refused; `error.code` says why, in a word."},
    "5XX": {"model": ErrorBody, "description": "Not the client's fault; after a 503, try again."},
}
KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A read key or an admin key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same keys."},
}
_EITHER_KEY: list[dict[str, list[str]]] = [{name: []} for name in KEY_SCHEMES]
_REQUEST_ID = {
    "required": True,
    "description": "The request's own, if it had one of 1 to 128 visible ASCII characters.",
    "schema": {"type": "string"},
}


def streamed(event: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """An answer that is a stream of such events where the request asks for one."""
    said = [{"$ref": SCHEMAS.format(model=name)} for name in (event.__name__, ErrorBody.__name__)]
    as_json = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": said}}
    data = {
        "anyOf": [as_json, {"const": "[DONE]"}],
        "description": "The last is [DONE], or an ErrorBody where the engine died midway.",
    }
    item = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {
        200: {"description": "The answer; with `stream`, its events.", "content": {EVENT_STREAM: {"itemSchema": item}}}
    }


class DocumentedApp(FastAPI):
    """An app whose document is true of the gate before it too."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    document["components"]["securitySchemes"] = KEY_SCHEMES
    _, chunks = models_json_schema([(ChatCompletionChunk, "serialization")], ref_template=SCHEMAS)
    document["components"]["schemas"] |= chunks["$defs"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in OPEN_PATHS else _EITHER_KEY
            if path in ADMIN_PATHS:
                operation["description"] += " Needs an admin key."
            for response in operation["responses"].values():
                response["headers"] = {REQUEST_ID_HEADER: _REQUEST_ID}
    return document
