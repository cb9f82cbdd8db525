"""What a file of one schema and one generator is held to, from the settings."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Validation
from validators.quoting import name_list
from validators.report import ADJUSTABLE, SEVERITIES, Level, Rule, Severity


@dataclass(frozen=True)
class Policy:
    """Level, severities and thresholds; `max_length` is the tokens of a row that training keeps."""

    level: Level
    severities: Mapping[Rule, Severity]
    thresholds: Validation
    max_length: int

    def severity(self, rule: Rule) -> Severity:
        return self.severities[rule]


def choose_policy(
    thresholds: Validation, max_length: int, schema_id: str, generator_id: str | None, level: Level | None = None
) -> Policy:
    """The policy of a file; `level` goes before the generator's, that before the schema's.

    Raises:
        SettingsError: if the settings name a rule that there is not, or whose severity is fixed.
    """
    generator = thresholds.generators.get(generator_id or "")
    spec = thresholds.specs.get(schema_id)
    configured = (generator and generator.level) or (spec and spec.level) or thresholds.level
    severities = dict(SEVERITIES)
    if thresholds.strict_columns:
        severities[Rule.UNKNOWN_COLUMN] = Severity.REJECT_FILE
    severities |= _read_severities("validation.severities", thresholds.severities)
    if generator is not None:
        severities |= _read_severities(f"validation.generators.{generator_id}.severities", generator.severities)
    return Policy(level or Level(configured), severities, thresholds, max_length)


def check_policies(thresholds: Validation) -> None:
    """Refuse settings that name rules which there are not.

    Raises:
        SettingsError: as `choose_policy`.
    """
    for generator_id in (None, *thresholds.generators):
        choose_policy(thresholds, 1, "", generator_id)


def _read_severities(where: str, named: Mapping[str, str]) -> dict[Rule, Severity]:
    unknown = [rule for rule in named if rule not in ADJUSTABLE]
    if unknown:
        raise SettingsError(
            f"{where} names {name_list(unknown)}; rules whose severity can be set: {', '.join(sorted(ADJUSTABLE))}"
        )
    severities = {Rule(rule): Severity(severity) for rule, severity in named.items()}
    for rule, severity in severities.items():
        if severity is Severity.REJECT_ROW and rule in _REJECT_NO_ROW:
            what = "a whole file" if rule in FILE_RULES else "columns that are dropped"
            raise SettingsError(f"{where}: {rule} is about {what}: warn or reject_file, not reject_row")
    return severities


FILE_RULES = frozenset({Rule.ANSWER_DIVERSITY, Rule.ANSWER_BALANCE, Rule.LENGTH_BOUNDS, Rule.DRIFT})
_REJECT_NO_ROW = FILE_RULES | {Rule.UNKNOWN_COLUMN}
