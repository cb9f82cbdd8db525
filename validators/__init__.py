"""The spec gate, the content gate and the sidecar: pure, no Dagster, no torch.

from validators import DATASET_SPECS, DataValidator, SpecValidator
"""

from validators.content import VALIDATORS, DataValidator, Limits, Validated
from validators.frame import accepted_schema
from validators.report import Example, Level, Problem, RejectedRow, Report, Rule, Severity
from validators.rows import content_sha256, read_columns
from validators.rules import NOTHING_RESERVED, Reserved
from validators.sidecar import GENERATORS, Generator, Sidecar, check_generator, parse_sidecar, read_sidecar
from validators.spec import DATASET_SPECS, DatasetSpec, SpecChoice, SpecValidator

__all__ = [
    "DATASET_SPECS",
    "GENERATORS",
    "NOTHING_RESERVED",
    "VALIDATORS",
    "DataValidator",
    "DatasetSpec",
    "Example",
    "Generator",
    "Level",
    "Limits",
    "Problem",
    "RejectedRow",
    "Report",
    "Reserved",
    "Rule",
    "Severity",
    "Sidecar",
    "SpecChoice",
    "SpecValidator",
    "Validated",
    "accepted_schema",
    "check_generator",
    "content_sha256",
    "parse_sidecar",
    "read_columns",
    "read_sidecar",
]
