"""One mapping from whatever went wrong to OpenAI's error shape; there is no other error body.

400 a bad body or bad parameters, 401 no or wrong key, 403 a read key on an admin endpoint, 404 and 405 unknown paths,
methods and models, 408 a head or a body that is late, 409 a folder or model that contradicts what is held or recorded,
413 a body over the cap, 415 a form, 429 a full queue or a quota that is used up, 431 a head over the cap, 500 our own
bug, 503 no model, one that is still being loaded, a dead engine, too many connections, a server that stops. Never 422.
"""

import json
import logging
import reprlib
import uuid
from collections.abc import Callable, Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gpu_assets.errors import PlatformError, RenderingError
from serving.inference.engine import EngineStopped, GenerationFailed, GenerationRefused, GrammarError
from serving.inference.loader import NotAModelFolder
from serving.inference.memory import MemoryShort
from serving.inference.pool import AmbiguousModel, NoChampion, PoolBusy, StillLoading, UnknownModel
from serving.inference.protocol import UNSUPPORTED, ErrorBody, ErrorDetail
from serving.inference.registry import IdReserved

logger = logging.getLogger(__name__)

_SHORT = reprlib.Repr()
"""A value as a refusal shows it: a body may nest deeper than `repr` goes."""
_SHORT.maxstring = 80

RETRY_AFTER_S = 1
ENGINE_STOPPED = "engine_stopped"
REQUEST_ID_HEADER = "x-request-id"
IS_REFUSED = "is_refused"
"""Of a request's state: its connection has answered, so that nothing else that is said of it counts."""


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


def api_error(error: Exception, request_id: str) -> ApiError:
    """The refusal that an exception means to a client; a bug of ours is logged with the id."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _bad_request(error.errors())
        case HTTPException():
            return _http_error(error)
        case NoChampion():
            return _no_model(str(error))
        case StillLoading():
            return _unavailable(error, "model_loading")
        case UnknownModel():
            return ApiError(404, str(error), code="model_not_found")
        case AmbiguousModel():
            return ApiError(400, str(error), code="model_ambiguous")
        case PoolBusy():
            return ApiError(409, str(error), code="pool_busy")
        case MemoryShort():
            return ApiError(409, str(error), code="insufficient_memory")
        case IdReserved():
            return ApiError(400, str(error), code="invalid_value", param="id")
        case GrammarError():
            return ApiError(400, str(error), code="invalid_value", param="response_format")
        case GenerationRefused():
            return ApiError(400, str(error), code="invalid_value")
        case GenerationFailed():
            return ApiError(500, str(error), code="generation_failed")
        case EngineStopped():
            return _unavailable(error, ENGINE_STOPPED)
        case NotAModelFolder():
            return ApiError(400, str(error), code="invalid_model_folder", param="model_path")
        case RenderingError():
            return ApiError(400, str(error), code="invalid_messages", param="messages")
        case PlatformError():
            return ApiError(409, str(error), code="model_refused")
        case _:
            logger.error("request %s failed", request_id, exc_info=error)
            sentence = f"the server failed on this request ({type(error).__name__}); its log says more of {request_id}"
            return ApiError(500, sentence, code="internal_error")


def install_error_handlers(app: FastAPI, refused: Callable[[int, str | None], None]) -> None:
    """Answer every exception of an app in OpenAI's shape.

    Args:
        refused: told the status and the code of each.
    """

    async def answer(request: Request, error: Exception) -> Response:
        request_id: str = request.state.request_id
        refusal = api_error(error, request_id)
        if not getattr(request.state, IS_REFUSED, False):
            refused(refusal.status_code, refusal.code)
        response = refusal.response()
        response.headers[REQUEST_ID_HEADER] = request_id  # the gate adds it to all but the answer to a bug
        return response

    for kind in (ApiError, RequestValidationError, HTTPException, PlatformError, Exception):
        app.add_exception_handler(kind, answer)


def _no_model(why: str) -> ApiError:
    """The alias points at nothing, for a reason that may be known."""
    what = f"no model is deployed: champion points at nothing{f', since {why}' if why else ''}"
    return _unavailable(f"{what}; POST /models/reload with a model_path, or wait for the next deployment", "no_model")


def _unavailable(what: object, code: str) -> ApiError:
    return ApiError(503, str(what), code=code, headers={"Retry-After": str(RETRY_AFTER_S)})


def new_request_id() -> str:
    """An id for a request whose client gave none."""
    return f"req-{uuid.uuid4().hex}"


def not_found() -> ApiError:
    """The refusal of a path that no route has."""
    return ApiError(404, "there is nothing at this path; /openapi.json lists what is", code="not_found")


def _http_error(error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return not_found()
    if error.status_code == 405:
        sentence = "this path does not take this method; /openapi.json lists what is"
        return ApiError(405, sentence, code="method_not_allowed", headers=error.headers)
    return ApiError(error.status_code, str(error.detail), headers=error.headers)


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
