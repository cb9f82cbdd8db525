"""What the environment says of one service's client; `settings.service_variables` gives it the environment.

Common ground: imports nothing else of the project but errors.
"""

import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails

from gpu_assets.errors import SettingsError


class ServiceVariables(BaseModel):
    """`<SERVICE>_TIMEOUT_S`, `<SERVICE>_MAX_RETRIES` and `<SERVICE>_API_KEY`; unset is None."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    timeout_s: float | None = Field(None, gt=0, le=3600, description="Seconds that the service may be silent.")
    max_retries: int | None = Field(None, ge=0, le=20, description="Attempts after the first; 0: none.")
    api_key: SecretStr | None = Field(None, description="Sent as `Authorization: Bearer`.")

    @field_validator("api_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        value = "" if key is None else key.get_secret_value()
        if key is not None and not (value.isascii() and value.isprintable() and value and " " not in value):
            raise ValueError("is no key: wanted printable ASCII without spaces; set another, or unset it")
        return key

    @property
    def key(self) -> str | None:
        return None if self.api_key is None else self.api_key.get_secret_value()


def read_service_variables(service: str, environment: Mapping[str, str]) -> ServiceVariables:
    """The variables that begin with the service's name in capitals.

    Raises:
        SettingsError: if one is out of bounds.
    """
    prefix = re.sub(r"[^A-Z0-9]", "_", service.upper()) + "_"
    names = {name: prefix + name.upper() for name in ServiceVariables.model_fields}
    values = {name: environment[variable] for name, variable in names.items() if variable in environment}
    try:
        return ServiceVariables.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(problem, names) for problem in error.errors())) from None


def _sentence(problem: ErrorDetails, names: Mapping[str, str]) -> str:
    """A problem under its variable's name; a key is not shown."""
    variable = names[str(problem["loc"][0])]
    if problem["type"] == "value_error":
        return f"{variable} {problem['msg'].removeprefix('Value error, ')}"
    return f"{variable}: {problem['msg']} (value {problem['input']!r})"
