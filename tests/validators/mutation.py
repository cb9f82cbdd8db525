"""How many of the defects planted in thousands of clean rows the content gate finds, and what else it calls one.

    python -m tests.validators.mutation [--rows 5000] [--seed 1]

Every defect that a row can have is planted many times, each in a row of its own, among clean rows and
among rows that are as near to a defect as can be (`defects.py`, `flaws.py`). One pass at level DEEP,
with every adjustable rule set to reject its rows, tells the line of each finding. Defects of whole
files are planted in a file each, beside a neighbour that must pass. Prints tables in Markdown.
"""

import argparse
import codecs
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rows import Row, make_row, prose, sentence, vocabulary
from gpu_assets.base_model.tiny import CHAT_TEMPLATE, build_tokenizer
from gpu_assets.datasets.reserved import RESERVED
from gpu_assets.rendering import Renderer
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.settings import Validation
from tests.validators.defects import (
    MAX_LENGTH,
    MAX_ROW_BYTES,
    MAX_TURNS,
    chat,
    evaluation_index,
    line_of,
)
from tests.validators.file_defects import FileCase, file_cases
from tests.validators.flaws import DEFECTS, NEAR_MISSES
from validators import DATASET_SPECS, DataValidator, Limits, RejectedRow, Report, Rule
from validators.duplicates import DuplicateFinder
from validators.history import RowHistory
from validators.policy import FILE_RULES
from validators.report import ADJUSTABLE, EXAMPLES

EACH = 12
"""Rows of each maker."""
PAIRS = 20
"""Rows of each way to repeat another."""
SIZE = 300
SPEC = DATASET_SPECS["chat_sft_v1"]
TEMPLATE = (
    f"{{%- if messages | length > {MAX_TURNS} %}}{{{{ raise_exception('too long') }}}}{{% endif %}}{CHAT_TEMPLATE}"
)
REJECTING = {rule.value: "reject_row" for rule in ADJUSTABLE - FILE_RULES - {Rule.UNKNOWN_COLUMN}}
NEAR = ((0.8, 0.85), (0.85, 0.9), (0.9, 0.95), (0.95, 1.0))
NOT_NEAR = ((0.75, 0.795), (0.6, 0.75))
"""Jaccard similarities of planted pairs."""
Repeat = Callable[[random.Random], tuple[Row, Row]]
Labelled = tuple[bytes, Rule | None]


@dataclass
class Mutated:
    """Lines of a file, the rule that each defective one breaks by line number, and rows accepted before."""

    lines: list[bytes]
    planted: dict[int, Rule]
    past: list[bytes]


@dataclass
class Score:
    """Of one rule: rows that break it, rows said to break it, rows of both kinds."""

    planted: int
    found: int
    both: int

    @property
    def precision(self) -> float:
        return self.both / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.both / self.planted if self.planted else 1.0


@dataclass
class FoundLines:
    """A sink that keeps which lines were rejected, and why."""

    rejected: list[RejectedRow] = field(default_factory=list)

    def accept(self, rows: object) -> None:
        """Accepted rows are not looked at."""

    def reject(self, rows: Iterable[RejectedRow]) -> None:
        self.rejected.extend(rows)


def make_renderer() -> Renderer:
    """The tiny preset's tokenizer, with a template that refuses long conversations."""
    return Renderer(
        tokenizer=build_tokenizer(), template=TEMPLATE, profile=get_profile("plain"), end_token="<|im_end|>"
    )


class Similar:
    """Makes pairs of rows of a chosen similarity: Jaccard, of the sets of 5 tokens in a row."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def between(self, least: float, most: float) -> Repeat:
        return lambda generator: self._pair(generator, least, most)

    def similarity(self, one: Row, other: Row) -> float:
        texts = ["\n".join(turn["content"] for turn in row["messages"]) for row in (one, other)]
        left, right = (
            {tuple(ids[place : place + 5]) for place in range(len(ids) - 4)}
            for ids in self._renderer.encode_batch(texts)
        )
        return len(left & right) / len(left | right)

    def _pair(self, generator: random.Random, least: float, most: float) -> tuple[Row, Row]:
        """Words are replaced, one of the prompt at least, until the similarity lies within the bounds."""
        while True:
            row = chat(prose(generator, 200), prose(generator, 300))
            changed = chat(*(turn["content"] for turn in row["messages"]))
            _replace_word(generator, changed["messages"][0])
            while (similarity := self.similarity(row, changed)) >= most:
                _replace_word(generator, generator.choice(changed["messages"]))
            if similarity >= least:
                return row, changed


def _replace_word(generator: random.Random, turn: dict[str, str]) -> None:
    words = turn["content"].split(" ")
    words[generator.randrange(len(words))] = generator.choice(vocabulary("latin"))
    turn["content"] = " ".join(words)


def same_row(generator: random.Random) -> tuple[Row, Row]:
    row = make_row(generator, SIZE)
    return row, {"messages": row["messages"], "metadata": {"id": generator.randint(0, 10**9)}}


def same_text_in_another_form(generator: random.Random) -> tuple[Row, Row]:
    asked, answered = prose(generator, 200), prose(generator, 200)
    other = chat(asked.upper().replace(" ", "\n  "), f" {answered} FIn 12 cafe\u0301\n")
    return chat(asked, f"{answered} ﬁn １２ café"), other


def same_row_for_another_system_turn(generator: random.Random) -> tuple[Row, Row]:
    row = chat(prose(generator, 200), prose(generator, 200))
    system = {"role": "system", "content": prose(generator, 150)}
    return row, {"messages": [system, *row["messages"]]}


def same_prompt_answered_otherwise(generator: random.Random) -> tuple[Row, Row]:
    prompt = sentence(generator)
    return chat(prompt, prose(generator, 300)), chat(f" {prompt.lower()}\n", prose(generator, 300))


def same_number_otherwise(generator: random.Random) -> tuple[Row, Row]:
    prompt = f"{sentence(generator, words=6)} {generator.randint(0, 99)} + {generator.randint(0, 99)}?"
    return chat(prompt, str(generator.randint(0, 99))), chat(prompt, f"It is {sentence(generator, words=16)}")


def same_answer_to_another_prompt(generator: random.Random) -> tuple[Row, Row]:
    answer = generator.choice(("yes", "42", sentence(generator)))
    return chat(prose(generator, 200), answer), chat(prose(generator, 200), answer)


def same_question_later_in_a_talk(generator: random.Random) -> tuple[Row, Row]:
    question = sentence(generator)
    talk = [*chat(prose(generator, 200), prose(generator, 200))["messages"]]
    return chat(question, prose(generator, 200)), {"messages": talk + chat(question, prose(generator, 200))["messages"]}


def mutate(renderer: Renderer, rows: int = 5_000, seed: int = 1) -> Mutated:
    """Plant all defects in that many lines; what is repeated stands before what repeats it."""
    generator = random.Random(seed)
    first, second, past = _repeats(generator, Similar(renderer))
    for rule, maker in [*DEFECTS, *((None, maker) for _, maker in NEAR_MISSES)]:
        made = (maker(generator, make_row(generator, SIZE)) for _ in range(EACH))
        second += [(line if isinstance(line, bytes) else line_of(line), rule) for line in made]
    for _ in range(EXAMPLES):
        second.append((b" \t", Rule.BLANK_LINE))
        second.append((line_of({**make_row(generator, SIZE), "sourse": 1}), Rule.UNKNOWN_COLUMN))
    clean = [(line_of(make_row(generator, SIZE)), None) for _ in range(rows - len(first) - len(second))]
    parts = [first + clean[::2], second + clean[1::2]]
    for part in parts:
        generator.shuffle(part)
    lines = [line for part in parts for line in part]
    planted = {number: rule for number, (_, rule) in enumerate(lines, 1) if rule is not None}
    data = [codecs.BOM_UTF8 + lines[0][0], *(line for line, _ in lines[1:])]
    return Mutated(data, planted | {1: Rule.BYTE_ORDER_MARK}, past)


def _repeats(generator: random.Random, similar: Similar) -> tuple[list[Labelled], list[Labelled], list[bytes]]:
    """Rows, rows that repeat them or nearly do, and rows accepted before."""
    ways: list[tuple[Repeat, Rule | None]] = [
        (same_row, Rule.EXACT_DUPLICATE),
        (same_text_in_another_form, Rule.EXACT_DUPLICATE),
        (same_row_for_another_system_turn, Rule.NEAR_DUPLICATE),
        (same_prompt_answered_otherwise, Rule.CONFLICTING_ANSWER),
        (same_number_otherwise, Rule.CONFLICTING_ANSWER),
        (same_answer_to_another_prompt, None),
        (same_question_later_in_a_talk, None),
        *((similar.between(least, most), Rule.NEAR_DUPLICATE) for least, most in NEAR),
        *((similar.between(least, most), None) for least, most in NOT_NEAR),
    ]
    first: list[Labelled] = []
    second: list[Labelled] = []
    past: list[bytes] = []
    for way, rule in ways:
        for _ in range(PAIRS):
            row, repeat = way(generator)
            first.append((line_of(row), None))
            second.append((line_of(repeat), rule))
    for way, rule in ((same_row, Rule.EXACT_DUPLICATE), (similar.between(*NEAR[1]), Rule.NEAR_DUPLICATE)):
        for _ in range(PAIRS):
            row, repeat = way(generator)
            past.append(line_of(row))
            second.append((line_of(repeat), rule))
    return first, second, past


def score(renderer: Renderer, mutated: Mutated, folder: Path) -> dict[Rule, Score]:
    """What one pass at level DEEP finds, by rule; the findings that cost a row its place by line."""
    found = FoundLines()
    report = validate(renderer, mutated, folder, REJECTING, found)
    lines = {row.line: row.reason for row in found.rejected}
    for problem in report.problems:
        if problem.rule in (Rule.BYTE_ORDER_MARK, Rule.BLANK_LINE, Rule.UNKNOWN_COLUMN):
            lines |= {example.line: problem.rule for example in problem.examples if example.line is not None}
    rules = {*mutated.planted.values(), *lines.values()}
    both = Counter(rule for line, rule in lines.items() if mutated.planted.get(line) is rule)
    planted, seen = Counter(mutated.planted.values()), Counter(lines.values())
    return {rule: Score(planted[rule], seen[rule], both[rule]) for rule in Rule if rule in rules}


def validate(
    renderer: Renderer, mutated: Mutated, folder: Path, severities: dict[str, str], sink: FoundLines | None = None
) -> Report:
    """Write and validate the rows accepted before, then the file."""
    thresholds = Validation(
        max_rejected_share=1, max_truncated_share=1, max_row_bytes=MAX_ROW_BYTES, severities=severities
    )
    validator = DataValidator(renderer, Limits(thresholds, MAX_LENGTH), RESERVED, evaluation_index())
    with RowHistory.open(folder / "history.sqlite", read_only=False) as history:
        finder = DuplicateFinder(history, "past")
        validator.validate_file(write(folder / "past.jsonl", mutated.past), SPEC, "DEEP", duplicates=finder)
        history.replace("past", finder.entries(range(1, len(mutated.past) + 1)))
        finder = DuplicateFinder(history, "file")
        path = write(folder / "file.jsonl", mutated.lines)
        return validator.validate_file(path, SPEC, "DEEP", sink, duplicates=finder)


def score_files(renderer: Renderer, seed: int = 1) -> dict[Rule, tuple[int, int, int]]:
    """By rule of a whole file: cases, broken files that were found, and whole ones that were called broken."""
    scores: dict[Rule, tuple[int, int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in file_cases(seed):
            broken, whole = check_case(renderer, case, Path(folder))
            cases, found, wrong = scores.get(case.rule, (0, 0, 0))
            scores[case.rule] = cases + 1, found + broken, wrong + whole
    return scores


def check_case(renderer: Renderer, case: FileCase, folder: Path) -> tuple[bool, bool]:
    """Whether the rule is said to be broken by the broken file, and by the whole one."""
    thresholds = Validation(max_truncated_share=1)
    validator = DataValidator(renderer, Limits(thresholds, MAX_LENGTH), RESERVED, evaluation_index())
    path = folder / "case.jsonl"
    reports = [
        validator.validate_file(write(path, lines), SPEC, "DEEP", past=case.past) for lines in (case.broken, case.whole)
    ]
    broken, whole = (any(problem.rule is case.rule for problem in report.problems) for report in reports)
    return broken, whole


def write(path: Path, lines: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    renderer = make_renderer()
    mutated = mutate(renderer, arguments.rows, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        scores = score(renderer, mutated, Path(folder))
    print(f"{len(mutated.lines):,} lines, {len(mutated.planted):,} of them with a defect.\n")
    print("| rule | planted | found | precision | recall |\n|---|---:|---:|---:|---:|")
    for rule, one in scores.items():
        print(f"| `{rule}` | {one.planted} | {one.both} | {one.precision:.3f} | {one.recall:.3f} |")
    print("\n| rule of a file | broken | found | whole | called broken |\n|---|---:|---:|---:|---:|")
    for rule, (cases, found, wrong) in score_files(renderer, arguments.seed).items():
        print(f"| `{rule}` | {cases} | {found} | {cases} | {wrong} |")


if __name__ == "__main__":
    main()
