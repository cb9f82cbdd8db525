"""One validation of a dataset as an event keeps it: what the ledger of generators is counted from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from gpu_assets.errors import ArtifactInvalid

VALIDATION_TAG = "gpu_assets/validation"
"""On the observation of `validated_datasets` that holds a validation."""
VALIDATION_TAG_VALUE = "1"
"""The format of what it holds."""
VALIDATION_METADATA = "validation"
"""The observation's one entry of metadata, JSON."""


@dataclass(frozen=True)
class Validation:
    """What the gates found when they looked at a dataset once.

    `at` is ISO 8601 with a time zone. `validators` maps names to versions. `accepted + rejected = rows`, and
    `rejected_by_rule` adds up to `rejected`; of a file that no gate read to its end all are 0. Where `passed` is
    false, no row went on, the accepted ones neither. `tokens` are those of the accepted rows. `schema` and
    `level` are None where the file was refused before they were chosen.
    """

    key: str
    at: str
    passed: bool
    sentence: str
    generator_id: str
    generator_version: str | None
    generator_inferred: bool
    validators: Mapping[str, str]
    schema: str | None
    level: str | None
    rows: int
    accepted: int
    rejected: int
    rejected_by_rule: Mapping[str, int]
    tokens: int
    supervised_tokens: int
    duplicates: int
    dataset_sha256: str
    duration_s: float

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {**vars(self), "validators": dict(self.validators), "rejected_by_rule": dict(self.rejected_by_rule)}

    @classmethod
    def from_json(cls, value: object) -> "Validation":
        """The validation that `to_json` wrote.

        Raises:
            ArtifactInvalid: if it is anything else.
        """
        if not isinstance(value, Mapping):
            raise ArtifactInvalid(f"a validation is a {type(value).__name__}, wanted a JSON object")
        fields = cls.__dataclass_fields__.keys()
        if value.keys() != fields:
            wrong = sorted(map(str, value.keys() ^ fields))
            raise ArtifactInvalid(f"a validation of {value.get('key')!r} lacks or should not have {', '.join(wrong)}")
        try:
            found = msgspec.convert(value, cls)
            found._check()
        except ValueError as error:
            raise ArtifactInvalid(f"a validation of {value['key']!r} is not what the gates record: {error}") from None
        return found

    def _check(self) -> None:
        counts = (self.rows, self.accepted, self.rejected, *self.rejected_by_rule.values())
        if min(*counts, self.tokens, self.supervised_tokens, self.duplicates) < 0:
            raise ValueError("a count is negative")
        if self.accepted + self.rejected != self.rows or sum(self.rejected_by_rule.values()) != self.rejected:
            raise ValueError(
                f"{self.rows} rows, {self.accepted} accepted, {self.rejected} rejected, by rule {self.rejected_by_rule}"
            )
        if datetime.fromisoformat(self.at).tzinfo is None:
            raise ValueError(f"at {self.at!r} has no time zone")
