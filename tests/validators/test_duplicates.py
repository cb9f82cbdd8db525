from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validators.duplicates import DuplicateFinder, HashableRow, normalise, split_conversation, text_entries
from validators.history import RowHistory
from validators.report import Finding, Rule
from validators.rows import Message
from validators.shingles import hash_shingles, jaccard, shingle_sets

WORDS = np.random.default_rng(9).integers(0, 30_000, 200)
UNRELATED = np.random.default_rng(10).integers(0, 30_000, 200)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[RowHistory]:
    with RowHistory.open(tmp_path / "history.sqlite", read_only=False) as history:
        yield history


def make_row(line: int, prompt: str = "", answer: str = "", ids: np.ndarray | None = None) -> HashableRow:
    """Token ids of its own, unless given."""
    own = np.random.default_rng(line).integers(0, 30_000, 200)
    return HashableRow(line, prompt or f"question {line}", answer or f"answer {line}", own if ids is None else ids)


def change(ids: np.ndarray, *places: int) -> np.ndarray:
    changed = ids.copy()
    changed[list(places)] += 30_000
    return changed


def accept(history: RowHistory, key: str, *rows: HashableRow) -> None:
    finder = DuplicateFinder(history, key)
    finder.check(rows)
    history.replace(key, finder.entries([row.line for row in rows]))


def check(history: RowHistory, *rows: HashableRow, key: str = "new") -> list[list[Finding]]:
    return DuplicateFinder(history, key).check(rows)


def test_the_first_of_equal_rows_is_clean_and_the_later_ones_name_it(history: RowHistory):
    rows = [make_row(line, "What is 1 + 1?", "2") for line in (4, 7, 9)]

    assert check(history, *rows) == [[]] + 2 * [[Finding(Rule.EXACT_DUPLICATE, "the same as line 4")]]


def test_case_width_and_white_space_do_not_make_another_row(history: RowHistory):
    first, second = make_row(1, "Straße  1\n", "ＡＢＣ"), make_row(2, " STRASSE 1", "abc")

    assert check(history, first, second)[1] == [Finding(Rule.EXACT_DUPLICATE, "the same as line 1")]


def test_another_answer_to_the_same_prompt_is_a_conflict_and_no_duplicate(history: RowHistory):
    first, second = make_row(1, "What is 1 + 1?", "2"), make_row(2, "what is 1 + 1?", "3")

    wanted = [Finding(Rule.CONFLICTING_ANSWER, "line 1 answers the same prompt otherwise")]
    assert check(history, first, second) == [[], wanted]


def test_a_row_that_repeats_the_first_answer_conflicts_with_the_one_between(history: RowHistory):
    rows = [make_row(line, "1 + 1", answer) for line, answer in ((1, "2"), (2, "3"), (3, "2"))]

    assert check(history, *rows)[2] == [
        Finding(Rule.EXACT_DUPLICATE, "the same as line 1"),
        Finding(Rule.CONFLICTING_ANSWER, "line 2 answers the same prompt otherwise"),
    ]


def test_completions_have_no_prompt_and_never_conflict(history: RowHistory):
    rows = [HashableRow(line, "", f"text {line}", np.arange(line, 50 * line)) for line in (1, 2, 3)]
    accept(history, "past", HashableRow(1, "", "another text", np.arange(7)))

    assert check(history, *rows) == [[], [], []]


def test_a_row_with_a_few_changed_tokens_is_nearly_the_same(history: RowHistory):
    rows = make_row(3, ids=WORDS), make_row(5, ids=change(WORDS, 20, 100))

    ((), (finding,)) = check(history, *rows)

    assert finding == Finding(Rule.NEAR_DUPLICATE, "nearly the same as line 3, similarity 0.90")


def test_a_row_below_the_similarity_is_another_row(history: RowHistory):
    rows = make_row(1, ids=WORDS), make_row(2, ids=change(WORDS, *range(10, 60, 10)))
    (exact,) = jaccard(*([one] for one in shingle_sets(hash_shingles([row.token_ids for row in rows]))))

    assert 0.7 < exact < 0.8
    assert check(history, *rows) == [[], []]
    assert DuplicateFinder(history, "new", similarity=0.75).check(rows)[1][0].rule is Rule.NEAR_DUPLICATE


def test_the_most_similar_earlier_row_is_named(history: RowHistory):
    rows = [make_row(1, ids=change(WORDS, 50, 100)), make_row(2, ids=change(WORDS, 150)), make_row(3, ids=WORDS)]

    assert check(history, *rows)[2][0].detail.startswith("nearly the same as line 2,")


def test_an_exact_duplicate_is_not_reported_as_near_too(history: RowHistory):
    rows = [make_row(line, "same", "same", WORDS) for line in (1, 2)]
    accept(history, "past", make_row(8, ids=change(WORDS, 3)))

    assert [finding.rule for finding in check(history, *rows)[1]] == [Rule.EXACT_DUPLICATE]


def test_accepted_rows_of_other_datasets_are_found_and_named(history: RowHistory):
    accept(history, "foo-1234abcd", make_row(3, "same", "same"), make_row(4, ids=WORDS), make_row(5, "asked", "yes"))
    rows = make_row(11, "Same", "same"), make_row(12, ids=change(WORDS, 40)), make_row(13, "asked", "no")

    (exact,), (near,), (conflict,) = check(history, *rows)

    assert exact == Finding(Rule.EXACT_DUPLICATE, "the same as line 3 of dataset foo-1234abcd")
    assert near.rule is Rule.NEAR_DUPLICATE
    assert near.detail.startswith("nearly the same as line 4 of dataset foo-1234abcd, similarity about 0.9")
    wanted = "line 5 of dataset foo-1234abcd answers the same prompt otherwise"
    assert conflict == Finding(Rule.CONFLICTING_ANSWER, wanted)


def test_only_the_rows_that_were_accepted_are_remembered(history: RowHistory):
    finder = DuplicateFinder(history, "past")
    finder.check([make_row(1), make_row(2)])
    finder.check([make_row(3)])
    history.replace("past", finder.entries([1, 3]))

    assert [bool(found) for found in check(history, make_row(1), make_row(2), make_row(3))] == [True, False, True]


def test_texts_are_known_alike_whether_their_tokens_were_looked_at_or_not(history: RowHistory):
    turns = [Message("user", "Ask"), Message("assistant", "Tell"), Message("user", "More"), Message("assistant", "")]
    chats = [(2, turns[:2]), (3, turns), (5, [Message("assistant", "A text")])]
    finder = DuplicateFinder(history, "own")
    finder.check([HashableRow(line, *split_conversation(chat), np.arange(9, dtype=np.uint32)) for line, chat in chats])

    signed, unsigned = finder.entries([2, 3, 5]), text_entries(chats)

    for column in ("lines", "prompts", "answers"):
        assert getattr(signed, column).tolist() == getattr(unsigned, column).tolist()
    assert signed.has_signatures and not unsigned.has_signatures
    assert len(text_entries([])) == 0


def test_a_file_without_rows_has_no_findings_and_no_entries(history: RowHistory):
    finder = DuplicateFinder(history, "new")

    assert finder.check([]) == []
    assert len(finder.entries([])) == 0


# A row is a prompt, an answer and which of 12 token lists; lists of one half are near duplicates by twos.
kinds = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 11)), min_size=1, max_size=12)


def of_kinds(kinds: list[tuple[int, int, int]]) -> list[HashableRow]:
    return [
        make_row(line, f"p{prompt} {kind}", f"a{answer}", change(np.roll(WORDS, 40 * (kind // 2)), *[9] * (kind % 2)))
        for line, (prompt, answer, kind) in enumerate(kinds, start=1)
    ]


@settings(max_examples=40, deadline=None)
@given(kinds, st.integers(1, 12))
def test_the_size_of_the_batches_changes_nothing(kinds: list[tuple[int, int, int]], size: int):
    rows = of_kinds(kinds)
    with RowHistory.open(Path("nowhere/history.sqlite"), read_only=True) as history:
        finder = DuplicateFinder(history, "new")
        parts = [finder.check(rows[begin : begin + size]) for begin in range(0, len(rows), size)]

        assert [found for part in parts for found in part] == check(history, *rows)


@settings(max_examples=40, deadline=None)
@given(kinds)
def test_a_validation_again_finds_nothing_of_the_dataset_itself(kinds: list[tuple[int, int, int]]):
    rows = of_kinds(kinds)
    with RowHistory.open(Path("nowhere/history.sqlite"), read_only=True) as history:
        history._read_only = False
        first = check(history, *rows)
        accept(history, "new", *rows)

        assert check(history, *rows) == first


@settings(max_examples=40, deadline=None)
@given(kinds.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_the_order_of_rows_decides_only_which_equal_one_is_the_first(pair):
    counts = []
    for kinds in pair:
        with RowHistory.open(Path("nowhere/history.sqlite"), read_only=True) as history:
            found = check(history, *of_kinds(kinds))
        counts.append(sum(finding.rule is Rule.EXACT_DUPLICATE for row in found for finding in row))

    assert counts[0] == counts[1] == len(pair[0]) - len(set(pair[0]))


def test_near_duplicates_are_found_at_the_similarity_and_above_in_the_file_and_in_the_history(history: RowHistory):
    generator = np.random.default_rng(4)
    originals = [generator.integers(0, 30_000, 120) for _ in range(600)]
    variants = [
        change(ids, *generator.choice(120, 2 + place % 2, replace=False)) for place, ids in enumerate(originals)
    ]
    ids = [*originals, *variants]
    sets = shingle_sets(hash_shingles(ids))
    near = jaccard(sets[:600], sets[600:]) >= 0.8
    rows = [make_row(line, ids=row) for line, row in enumerate(ids, start=1)]
    accept(history, "past", *rows[:600])

    in_file = check(history, *rows, key="past")[600:]
    in_history = check(history, *rows[600:])

    flagged = np.array([[bool(found) for found in findings] for findings in (in_file, in_history)])
    assert near.sum() > 300
    assert not flagged[0][~near].any()
    assert flagged[0][near].mean() >= 0.95
    assert flagged[1][near].mean() >= 0.95


def test_the_prompt_of_a_conversation_is_all_before_its_last_answer_with_the_roles():
    turns = [("system", "s"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2")]
    messages = [Message(role, content) for role, content in turns]

    prompt, answer = split_conversation(messages)

    assert answer == "a2"
    assert prompt.split("\0") == ["system", "s", "user", "u1", "assistant", "a1", "user", "u2"]


@given(st.text())
def test_text_is_normalised_alike_by_the_short_way_for_ascii(text: str):
    import unicodedata

    assert normalise(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def test_white_space_around_a_turn_makes_no_other_prompt():
    one = [Message("system", "Be brief."), Message("user", "What is it?"), Message("assistant", "This.")]
    other = [Message("system", " Be brief.\n"), Message("user", "\n\tWhat is it? "), Message("assistant", " This.")]

    assert [normalise(text) for text in split_conversation(one)] == [
        normalise(text) for text in split_conversation(other)
    ]
