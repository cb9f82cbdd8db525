"""The rules of level DEEP on rows that levels QUICK and STANDARD passed, a batch at a time.

What no rule here can find is a paraphrase: of an evaluation item, of another row, of the answer in
its prompt. The report says so.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from validators.contamination import EvaluationIndex
from validators.degenerate import find_degenerate, find_mojibake, find_repetition
from validators.duplicates import DuplicateFinder, HashableRow, split_conversation
from validators.leakage import find_answer_in_prompt, find_leakage
from validators.protocol import find_protocol_break, has_protocol, protocol_mix
from validators.report import Finding, Rule
from validators.rows import Message, Row, completion_turns
from validators.secrets import find_personal_data, find_secret
from validators.spec import Kind
from validators.structure import find_broken_code, find_broken_json

BLIND_SPOT = "a paraphrase of an evaluation item, of another row or of the answer in its prompt is not found"
_ROW_RULES: tuple[Callable[[Sequence[Message]], Finding | None], ...] = (
    find_answer_in_prompt,
    find_repetition,
    find_degenerate,
    find_mojibake,
    find_broken_json,
    find_broken_code,
    find_protocol_break,
    find_personal_data,
    find_secret,
)


class DeepRules:
    """Looks at the rows of one file in their order; `encode` gives the token ids of many texts.

    Rows that a rule of `rejecting` finds are not compared with others: a good row would else be called the
    duplicate of one that no one keeps.
    """

    blind_spot = BLIND_SPOT

    def __init__(
        self,
        kind: Kind,
        evaluation: EvaluationIndex,
        duplicates: DuplicateFinder,
        encode: Callable[[Sequence[str]], Sequence[Sequence[int]]],
        rejecting: Collection[Rule] = (),
    ) -> None:
        self._kind = kind
        self._evaluation = evaluation
        self._duplicates = duplicates
        self._encode = encode
        self._rejecting = rejecting
        self._rows = 0
        self._with_protocol = 0

    def check(self, rows: Sequence[Row]) -> list[list[Finding]]:
        """The findings on each row of the next batch, in the order of `Rule`."""
        conversations = [self._conversation(row) for row in rows]
        given_away = [list(self._find_given_away(*pair)) for pair in zip(rows, conversations, strict=True)]
        flaws = [list(_find_flaws(messages)) for messages in conversations]
        kept = [place for place in range(len(rows)) if not self._is_rejected([*given_away[place], *flaws[place]])]
        hashable = self._hashable([rows[place] for place in kept], [conversations[place] for place in kept])
        repeated = dict(zip(kept, self._duplicates.check(hashable), strict=True))
        self._rows += len(rows)
        self._with_protocol += sum(has_protocol(messages[-1].content) for messages in conversations)
        return [[*given_away[place], *repeated.get(place, ()), *flaws[place]] for place in range(len(rows))]

    def about_file(self) -> Iterator[Finding]:
        """What the rows seen so far show together."""
        if mix := protocol_mix(self._with_protocol, self._rows):
            yield mix

    def _is_rejected(self, findings: Sequence[Finding]) -> bool:
        return any(finding.rule in self._rejecting for finding in findings)

    def _conversation(self, row: Row) -> Sequence[Message]:
        return row.messages if self._kind == "chat_sft" else completion_turns(row.text)

    def _hashable(self, rows: Sequence[Row], conversations: Sequence[Sequence[Message]]) -> list[HashableRow]:
        """Without system turns in the tokens: many rows share one, and would all be nearly the same."""
        spoken = [
            "\n".join(message.content for message in messages if message.role != "system") for messages in conversations
        ]
        return [
            HashableRow(row.line.number, *split_conversation(messages), np.asarray(ids, np.uint32))
            for row, messages, ids in zip(rows, conversations, self._encode(spoken), strict=True)
        ]

    def _find_given_away(self, row: Row, messages: Sequence[Message]) -> Iterator[Finding]:
        if leak := find_leakage(messages):
            yield leak
        if contamination := self._evaluation.find(messages, row.problem_key):
            yield contamination


def _find_flaws(messages: Sequence[Message]) -> Iterator[Finding]:
    for rule in _ROW_RULES:
        if finding := rule(messages):
            yield finding
