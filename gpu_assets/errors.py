"""Every error that a person can act on, under one root.

PlatformError
├── SettingsError            config.json, hosts.json, the environment or an override is wrong
├── InUse                    a port, a home or a lock is held by another process
├── IntakeRefused            an inbox entry is not something that can be taken in
├── DatasetInvalid           a dataset did not pass its gates
├── ArtifactInvalid          a folder has no manifest, or is not what its manifest says
├── RenderingError           a template, profile or tokenizer cannot render a conversation
├── MaskInvalid              what a batch would train on is not the answers of its rows
├── ModelUnsupported         a model computes something that training would leave out
├── TrainingStopped          training ended before its plan was done: nothing is published
├── TrainingDiverged         a loss spike, or what is not finite, came again: nothing is published
├── OutOfMemory              the device's memory holds no row, or not the optimizer's states
├── DiskFull                 too little would be left free on a disk: nothing was written
├── EvaluationInvalid        an evaluation set or a score cannot be trusted
├── DeploymentRefused        a candidate is not what should be served
└── ServiceError             a service of ours did not do what it was asked
    ├── ServiceUnavailable   no connection, a time-out, or 5xx after all retries
    ├── ServiceHttpError     any other refusal, with its status and body
    ├── ServiceAuthError     401 or 403
    └── ServiceDecodeError   the answer is not what the service promises

A message names the thing, the value seen, what was wanted and the next step.
This module imports nothing else of the project.
"""


class PlatformError(Exception):
    """Root of all errors whose message is meant for a person."""


class SettingsError(PlatformError):
    """A setting is missing, unknown, out of bounds or contradicts another."""


class InUse(PlatformError):
    """A port, a home or a lock is held by another process."""


class IntakeRefused(PlatformError):
    """An inbox entry cannot be taken in; it waits in quarantine."""


class DatasetInvalid(PlatformError):
    """A dataset did not pass the spec gate or the content gate."""


class ArtifactInvalid(PlatformError):
    """A folder has no manifest, or its content is not what the manifest says."""


class RenderingError(PlatformError):
    """A template, profile or tokenizer cannot render a conversation."""


class MaskInvalid(PlatformError):
    """What a batch would train on is not the answers of its rows; nothing was trained."""


class ModelUnsupported(PlatformError):
    """A model computes something that training would leave out, or mixes the documents of a pack."""


class TrainingStopped(PlatformError):
    """Training ended before its plan was done; its resume point waits."""


class TrainingDiverged(PlatformError):
    """The loss was not finite, or a spike, again after training was rolled back; nothing is published."""


class OutOfMemory(PlatformError):
    """A device's memory does not hold what one step needs at least; its resume point waits."""


class DiskFull(PlatformError):
    """Too little would be left free on a disk; nothing was written. `wanted` is in bytes, beside what stays free."""

    def __init__(self, message: str, *, wanted: int) -> None:
        super().__init__(message)
        self.wanted = wanted


class EvaluationInvalid(PlatformError):
    """An evaluation set or a score cannot be trusted."""


class DeploymentRefused(PlatformError):
    """A candidate is not what should be served; the served model is untouched."""


class ServiceError(PlatformError):
    """A service of ours did not do what it was asked."""


class ServiceUnavailable(ServiceError):
    """No connection, a time-out, or 5xx after all retries; with the last status and body, where there was an answer."""

    def __init__(self, message: str, *, status: int | None = None, body: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class ServiceHttpError(ServiceError):
    """A refusal other than of the key."""

    def __init__(self, message: str, *, status: int, body: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class ServiceAuthError(ServiceError):
    """401 or 403: the key is missing, wrong or not allowed to do this."""


class ServiceDecodeError(ServiceError):
    """The answer is not what the service promises."""
