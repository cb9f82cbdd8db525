"""Rules ANSWER_LEAKAGE and ANSWER_IN_PROMPT: the answer already stands in the prompt, so the model would learn to copy.

ANSWER_LEAKAGE rejects rows, so it misses a leak rather than refuse a good row. It is an answer of any length that the
turn asking for it states behind a label at its very end ("... Answer: 42", "... The answer is 42."), or before a last
line such as "Reply now.", right behind the question. Where something else stands between the two, or the turn speaks of
a solution, a reply or a check, the labelled answer is what the turn is about (`asking.py`). A label that data
use for other things ("Output: b") is none if the turn names it before, or if a number follows. A system turn often
prescribes an answer, or shows some: it gives one away only behind a label such as "Correct answer:", and only with no
question of its own, or with the very question that is asked. An example or a form is none either.

ANSWER_IN_PROMPT warns. It is a whole answer that is long enough (characters and words), mostly letters, and stands in
an earlier user turn as a piece of its own: it ends the turn, fills whole lines, or is half of the turn or more. A
sentence inside a passage is an extract, and one of lettered or numbered options a choice.

Neither is found where a system or user turn asks for a copy: extract, repeat, translate, correct and the like, in
English and a few other languages. A short answer without a label is never found: results, operands, labels, options
and spans of a passage stand in their prompts by nature. Texts are compared in case-folded form with white space
collapsed. Not found: paraphrases, answers given in part, answers quoted in running text.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from validators.asking import begins_with_its_question, ends_with_its_question, speaks_of_an_answer, tells_to_answer
from validators.copying import asks_for_a_copy, offers_a_copy
from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message

MIN_CHARS = 60
MIN_WORDS = 10
MIN_LETTER_SHARE = 0.6
MIN_TURN_SHARE = 0.5
RECENT_TURNS = 16
"""Turns before an answer in which it is looked for."""
LABEL_CHARS = 200
"""How far before the answer a label, an example or a form is looked for."""

_PROBE_CHARS = 100
_EDGE = " .,;:!?'\"`*_()[]{}“”‘’„«»。！？；：，、「」"
_SURE = (
    r"(?:correct|right|expected|model|reference|gold|ground[- ]truth|desired|target|true|richtige|korrekte|bonne|"
    r"правильный|верный) |正确|正解|参考"
)
_ARTICLE = r"the |die |la |el |il |a |o "
_ANSWER = (
    r"answer(?: key)?|ans\.?|solution|antwort|lösung|réponse|respuesta|solución|risposta|soluzione|resposta|solução|"
    r"ответ|решение|答案|回答|答え|解答|정답"
)
_GOLD = r"ground[- ]truth|gold(?: label| standard)?"
_NAME = r"output|response|result|label|target|completion|expected"
"""What a field of the data may be called as well."""
_CLASS = ("label", "target")
"""Names of what a text is to be sorted into: the text stands between the question and them."""
_BEGIN = r"(?P<before>^|[\n.?!;,(\[>*。？！；，])[ *_#>(\[]*"
_IS = r"[ *_]*(?:[:：]| [-–—](?= ))"
_OPEN = r"[ *_'\"`«“„「]*$"
_LABEL = re.compile(
    rf"{_BEGIN}(?:(?:{_ARTICLE})?(?P<sure>{_SURE})?(?:final )?"
    rf"(?:(?:{_ANSWER})(?P<after> correcta| corretta| correta| correcte)?(?: is)?{_IS}"
    rf"|(?P<gold>{_GOLD}){_IS}|ans\."
    rf"|(?P<name>{_NAME})[ *_]*[:：]))"
    rf"{_OPEN}"
)
_STATED = re.compile(
    r"(?P<before>^|[\n.?!(\[。？！])[ *_#>(\[]*"
    rf"(?:{_ARTICLE})?(?P<sure>{_SURE})?(?:final )?(?:{_ANSWER})"
    rf"(?: is| ist| est| es| è| é|是|は){_OPEN}"
)
_HASHES = re.compile(r"(?P<before>^|[\n?？]) ?#### ?$")
"""A number behind it is how GSM8K states an answer."""
_CLOSING = re.compile(
    r"\n(?:(?:please|now) )?(?:reply|respond|answer|begin|start|go|think|take your time|good luck|be brief|be concise|"
    r"thanks?|thank you|your turn|antworte|réponds|responde|rispondi|responda|请回答|回答してください|ответь)\b"
    r"(?!.*\b(?:it|this|that|above|given|same|again|not)\b)[^\n?？:：]{0,60}\Z"
)
"""A last line behind the answer that adds nothing."""
_FORM = re.compile(
    r"\bexamples?\b|\be\.g\.|for instance|\bformat\b|\bform\b|\btemplate\b|such as|like (?:this|so)\b|reply with|"
    r"beispiel|\bexemple|ejemplo|esempio|exemplo|пример|例|예시"
)
_OPTION = re.compile(r"\(?[a-z0-9]{1,2}[).:] ")
_OPTION_BEFORE = re.compile(r"(?:^|\s)(?:\(?[a-z0-9]{1,2}[).]|[-*•]) $")
_OPTION_CHARS = 6
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_UNSPACED_PER_WORD = 2
_OWN_LABEL = re.compile(rf"(?:{_ARTICLE})?(?:correct |final )?(?:{_ANSWER})(?: is)? ?[:：] ?")


@dataclass(frozen=True)
class LeakageLimits:
    """From what size on an answer without a label counts; lengths are of the collapsed answer.

    In scripts written without spaces two characters count as a word. `min_turn_share` is the share of
    the turn that the answer must fill to be found wherever in it it stands.
    """

    min_chars: int = MIN_CHARS
    min_words: int = MIN_WORDS
    min_letter_share: float = MIN_LETTER_SHARE
    min_turn_share: float = MIN_TURN_SHARE


@dataclass(frozen=True)
class _Turn:
    """A system or user turn; what it asks for is looked for once."""

    index: int
    role: str
    text: str
    """Case-folded."""

    @cached_property
    def collapsed(self) -> str:
        return _collapse_lines(self.text)

    @cached_property
    def asks_for_a_copy(self) -> bool:
        return asks_for_a_copy(self.text)

    @cached_property
    def speaks_of_an_answer(self) -> bool:
        return speaks_of_an_answer(self.text)

    @cached_property
    def offers_a_copy(self) -> bool:
        return offers_a_copy(self.text)


def find_leakage(messages: Sequence[Message]) -> Finding | None:
    """The first assistant turn whose answer the turn before it, or a system turn, states behind a label."""
    for message, index, before in _answers(messages):
        answer = _bare(message.content)
        for turn in before:
            if (turn is before[-1] or turn.role == "system") and _is_labelled(turn, answer, before):
                return _finding(Rule.ANSWER_LEAKAGE, turn, index, message)
    return None


def find_answer_in_prompt(messages: Sequence[Message], limits: LeakageLimits | None = None) -> Finding | None:
    """The first assistant turn whose answer an earlier user turn holds as a piece of its own."""
    limits = limits or LeakageLimits()
    for message, index, before in _answers(messages):
        if (turn := _holding_turn(before, message.content, limits)) is not None:
            return _finding(Rule.ANSWER_IN_PROMPT, turn, index, message)
    return None


def _answers(messages: Sequence[Message]) -> Iterator[tuple[Message, int, Sequence[_Turn]]]:
    """Each assistant turn, its index, and the first turn and the last ones of other roles before it."""
    before: deque[_Turn] = deque(maxlen=RECENT_TURNS)
    system: list[_Turn] = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            turn = _Turn(index, message.role, message.content.casefold())
            if index == 0 and message.role == "system":
                system.append(turn)
            else:
                before.append(turn)
        elif before:
            yield message, index, [*system, *before]


def _finding(rule: Rule, turn: _Turn, index: int, message: Message) -> Finding:
    detail = f"turn {turn.index + 1} ({turn.role}) holds the answer of turn {index + 1}: {quote(message.content)}"
    return Finding(rule, detail)


def _bare(content: str) -> str:
    """The answer without a label of its own."""
    answer = " ".join(content.casefold().split())
    label = _OWN_LABEL.match(answer)
    return answer[label.end() if label else 0 :].strip(_EDGE) or answer


def _is_labelled(turn: _Turn, bare: str, before: Sequence[_Turn]) -> bool:
    """Whether the turn ends with a label and the answer, and neither asks for a copy nor shows a form."""
    tail = turn.text[-2 * (len(bare) + LABEL_CHARS) :]
    if bare.rpartition(" ")[2] not in tail or not _end_with(_collapse_lines(tail), bare):
        return False
    stated = (_end_with(turn.collapsed, bare) or "")[: -len(bare)]
    nearest = stated[-LABEL_CHARS:]
    label = _LABEL.search(nearest) or _STATED.search(nearest) or (_HASHES.search(nearest) if _is_number(bare) else None)
    if label is None or _FORM.search(nearest):
        return False
    asked = stated[: len(stated) - len(nearest) + label.end("before")]
    if any(other.asks_for_a_copy or other.speaks_of_an_answer for other in before if other is not turn):
        return False
    named = nearest[label.end("before") :].strip(_EDGE + "#")
    if any(f"{named}:" in other.text for other in before if other is not turn):
        return False
    if any(other.role == "system" and not tells_to_answer(other.text) for other in before if other is not turn):
        return False
    own = _is_sure(turn, asked, label, before[-1].text) if turn.role == "system" else _is_own(asked, label, bare)
    return own and not speaks_of_an_answer(asked)


def _is_sure(system: _Turn, asked: str, label: re.Match[str], question: str) -> bool:
    """Whether a system turn's label is of the very answer, not of one that it prescribes or shows."""
    groups = label.groupdict()
    if not (groups.get("sure") or groups.get("after") or groups.get("gold")) or system.asks_for_a_copy:
        return False
    question = " ".join(question.split())
    return "?" not in asked or any(f" {line}".endswith(f" {question}") for line in asked.split("\n"))


def _is_own(asked: str, label: re.Match[str], bare: str) -> bool:
    """Whether a user turn's label is of the answer to its own question, not of a field of the data that it gives."""
    if asks_for_a_copy(asked):
        return False
    name = label.groupdict().get("name")
    if name is not None and not label["sure"] and (name in asked or not any(map(str.isalpha, bare))):
        return False
    return ends_with_its_question(asked) or (name in _CLASS and begins_with_its_question(asked))


def _end_with(lines: str, bare: str) -> str | None:
    """The lines up to the answer that they end with, or that only a closing line follows."""
    closing = _CLOSING.search(lines, max(0, len(lines) - LABEL_CHARS))
    for end in (lines, lines[: closing.start()] if closing else ""):
        end = end.rstrip(_EDGE + "\n")
        if end.replace("\n", " ").endswith(bare):
            return end
    return None


def _is_number(bare: str) -> bool:
    return any(map(str.isdigit, bare)) and not any(map(str.isalpha, bare))


def _holding_turn(before: Sequence[_Turn], content: str, limits: LeakageLimits) -> _Turn | None:
    """The user turn that holds the answer. The longest of its first words is looked for before all else."""
    words = content[:_PROBE_CHARS].casefold().split()
    probe = max(words[:-1] if len(content) > _PROBE_CHARS else words, key=len, default="").strip(_EDGE)
    holding = [turn for turn in before if turn.role != "system" and probe in turn.text]
    if not holding:
        return None
    answer = " ".join(content.casefold().split())
    for turn in holding:
        others = (other for other in before if other is not turn)
        if _is_whole_piece(turn.text, answer, limits) and not any(other.offers_a_copy for other in others):
            return turn
    return None


def _is_whole_piece(turn: str, answer: str, limits: LeakageLimits) -> bool:
    if len(answer) < limits.min_chars or len(answer) > len(turn):
        return False
    lines = _collapse_lines(turn)
    flat = lines.replace("\n", " ")
    at = flat.find(answer)
    if at < 0 or not _is_prose(answer, limits) or _OPTION.match(answer):
        return False
    before, after = lines[:at], lines[at + len(answer) :]
    if _OPTION_BEFORE.search(before[-_OPTION_CHARS:]) or offers_a_copy(before) or offers_a_copy(after):
        return False
    if len(answer) >= limits.min_turn_share * len(flat):
        return True
    begins = not before or before[-1] == "\n" or before.rstrip(" ").endswith((":", "?"))
    ends = not after or after[0] == "\n"
    return not after or (begins and ends)


def _collapse_lines(text: str) -> str:
    """White space collapsed, line ends kept, blank lines dropped."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def _is_prose(answer: str, limits: LeakageLimits) -> bool:
    letters = sum(map(str.isalpha, answer))
    inked = len(answer) - answer.count(" ")
    words = len(answer.split()) + len(_UNSPACED.findall(answer)) / _UNSPACED_PER_WORD
    return words >= limits.min_words and letters >= limits.min_letter_share * inked
