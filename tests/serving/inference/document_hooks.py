"""What is changed of the requests that schemathesis makes up, so that many are answered, and soon."""

from typing import Any

import schemathesis
from schemathesis import Case, HookContext

MAX_TOKENS = 4


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "champion"
        if _is_limit(body.get("max_tokens")):
            body["max_tokens"] = MAX_TOKENS
        if "max_completion_tokens" in body and _is_limit(body["max_completion_tokens"]):
            body["max_completion_tokens"] = MAX_TOKENS


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)
