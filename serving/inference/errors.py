"""One mapping from whatever went wrong to OpenAI's error shape; there is no other error body.

400 a bad body or bad parameters, 401 no or wrong key, 403 the read key on an admin endpoint, 404 and 405 unknown
paths, methods and models, 409 a folder or model that contradicts what is held or recorded, 413 a
body over the cap, 415 a form, 429 a full queue, 500 our own bug, 503 no model, one that is still being
loaded, or a dead engine. Never 422.
"""

import json
import logging
import reprlib
from collections.abc import Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gpu_assets.errors import PlatformError, RenderingError
from serving.inference.engine import EngineStopped
from serving.inference.loader import NotAModelFolder
from serving.inference.pool import AmbiguousModel, NoChampion, PoolBusy, StillLoading, UnknownModel
from serving.inference.protocol import UNSUPPORTED, ErrorBody, ErrorDetail

logger = logging.getLogger(__name__)

_SHORT = reprlib.Repr()
"""A value as a refusal shows it: a body may nest deeper than `repr` goes."""
_SHORT.maxstring = 80

RETRY_AFTER_S = 1
ENGINE_STOPPED = "engine_stopped"


class ApiError(HTTPException):
    """A refusal with its HTTP status, as the client will see it.

    An `HTTPException`, so that FastAPI passes it on when reading a body raises it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code
        self.param = param

    @property
    def body(self) -> ErrorBody:
        kind = "server_error" if self.status_code >= 500 else "invalid_request_error"
        if self.status_code == 429:
            kind = "rate_limit_error"
        return ErrorBody(error=ErrorDetail(message=self.detail, type=kind, param=self.param, code=self.code))

    def response(self) -> Response:
        """In ASCII: what a client sent and is told again may be no text, as half of a surrogate pair is."""
        content = json.dumps(self.body.model_dump())
        return Response(content, self.status_code, self.headers, media_type="application/json")


def api_error(error: Exception) -> ApiError:
    """The refusal that an exception means to a client."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _bad_request(error.errors())
        case HTTPException():
            return _http_error(error)
        case NoChampion():
            return _no_model()
        case StillLoading():
            return _unavailable(error, "model_loading")
        case UnknownModel():
            return ApiError(404, str(error), code="model_not_found")
        case AmbiguousModel():
            return ApiError(400, str(error), code="model_ambiguous")
        case PoolBusy():
            return ApiError(409, str(error), code="pool_busy")
        case EngineStopped():
            return _unavailable(error, ENGINE_STOPPED)
        case NotAModelFolder():
            return ApiError(400, str(error), code="invalid_model_folder", param="model_path")
        case RenderingError():
            return ApiError(400, str(error), code="invalid_messages", param="messages")
        case PlatformError():
            return ApiError(409, str(error), code="model_refused")
        case _:
            logger.error("request failed", exc_info=error)
            return ApiError(500, f"the server failed on this request ({type(error).__name__}); its log says more")


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception of an app in OpenAI's shape."""
    for kind in (ApiError, RequestValidationError, HTTPException, PlatformError, Exception):
        app.add_exception_handler(kind, _answer)


async def _answer(_: Request, error: Exception) -> Response:
    return api_error(error).response()


def _no_model() -> ApiError:
    """The alias points at nothing."""
    return _unavailable(
        "no model is deployed: champion points at nothing; POST /models/reload with a model_path, "
        "or wait for the next deployment",
        "no_model",
    )


def _unavailable(what: object, code: str) -> ApiError:
    return ApiError(503, str(what), code=code, headers={"Retry-After": str(RETRY_AFTER_S)})


def _http_error(error: HTTPException) -> ApiError:
    known = {
        404: ("there is nothing at this path; /openapi.json lists what is", "not_found"),
        405: ("this path does not take this method; /openapi.json lists what is", "method_not_allowed"),
    }
    message, code = known.get(error.status_code, (str(error.detail), None))
    return ApiError(error.status_code, message, code=code, headers=error.headers)


def _bad_request(problems: Sequence[ErrorDetails]) -> ApiError:
    """The first problem decides param and code; the message has all of them."""
    first = problems[0]
    code = "unsupported_parameter" if first["type"] in ("extra_forbidden", UNSUPPORTED) else "invalid_value"
    message = "; ".join(dict.fromkeys(_sentence(problem) for problem in problems))
    return ApiError(400, message, code=code, param=_param(first))


def _sentence(problem: ErrorDetails) -> str:
    where = _param(problem) or "body"
    if problem["type"] == "extra_forbidden":
        return f"{where}: this parameter is not supported; leave it out"
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{where}: this parameter is required"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {_SHORT.repr(problem['input'])}"


def _param(problem: ErrorDetails) -> str | None:
    """`messages.0.content` for a location; the names that pydantic gives to a union's members are left out."""
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ").split(" ")[0]
    parts = [str(part) for part in problem["loc"] if part != "body"]
    kept = [part for part in parts if part not in ("str", "constrained-str") and "[" not in part]
    return ".".join(kept) or None
