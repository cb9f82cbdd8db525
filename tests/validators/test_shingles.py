import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validators.shingles import (
    BANDS,
    NUM_PERMUTATIONS,
    band_keys,
    estimate_similarity,
    hash_shingles,
    jaccard,
    shingle_sets,
    sign,
)

SIGNATURE_OF_0_TO_39 = [16, 49, 180, 149, 93, 72, 135, 48, 92, 125, 195, 217]
BAND_KEYS_OF_0_TO_39 = [111232360512828, 40830747834231]
token_rows = st.lists(st.lists(st.integers(0, 200_000), max_size=12), max_size=8)


def as_arrays(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.int64) for row in rows]


def spans(row: list[int]) -> set[tuple[int, ...]]:
    return {tuple(row[start : start + 5]) for start in range(max(1, len(row) - 4))}


@given(token_rows)
def test_a_row_has_a_shingle_for_every_run_of_five_tokens_and_a_shorter_one_is_one(rows: list[list[int]]):
    shingles = hash_shingles(as_arrays(rows))

    assert np.diff(shingles.offsets).tolist() == [max(1, len(row) - 4) for row in rows]
    assert len(shingles.hashes) == shingles.offsets[-1]
    assert [len(found) for found in shingle_sets(shingles)] == [len(spans(row)) for row in rows]


@given(token_rows, st.integers(0, 8))
def test_what_a_row_hashes_to_does_not_depend_on_its_neighbours(rows: list[list[int]], cut: int):
    together = hash_shingles(as_arrays(rows))
    first, second = hash_shingles(as_arrays(rows[:cut])), hash_shingles(as_arrays(rows[cut:]))

    assert together.hashes.tolist() == [*first.hashes.tolist(), *second.hashes.tolist()]
    assert sign(together).tolist() == [*sign(first).tolist(), *sign(second).tolist()]


@given(token_rows)
def test_the_similarity_of_shingle_sets_is_jaccard_of_the_runs(rows: list[list[int]]):
    sets = shingle_sets(hash_shingles(as_arrays(rows)))
    left, right = rows, rows[::-1]

    found = jaccard(sets, sets[::-1])

    wanted = [
        len(spans(one) & spans(other)) / len(spans(one) | spans(other)) for one, other in zip(left, right, strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted)


def test_short_rows_that_differ_only_in_length_or_by_a_zero_are_different():
    rows = as_arrays([[], [0], [0, 0], [0, 7], [7], [7, 0], [0, 0, 0, 0, 7], [0, 0, 0, 7]])

    assert len(set(hash_shingles(rows).hashes.tolist())) == len(rows)


def test_the_signature_of_given_tokens_is_the_one_that_is_on_disk():
    signature = sign(hash_shingles([np.arange(40)]))

    assert signature.shape == (1, NUM_PERMUTATIONS)
    assert signature[0, :12].tolist() == SIGNATURE_OF_0_TO_39
    assert band_keys(signature)[0, :2].tolist() == BAND_KEYS_OF_0_TO_39


def test_the_bands_of_one_row_have_different_keys_that_fit_six_bytes():
    keys = band_keys(np.zeros((1, NUM_PERMUTATIONS), np.uint8))

    assert len(set(keys[0].tolist())) == BANDS
    assert keys.min() >= 0
    assert keys.max() < 2**47


@pytest.mark.parametrize("changes", [0, 2, 5, 20])
def test_the_estimate_is_within_five_standard_errors_of_the_similarity(changes: int):
    generator = np.random.default_rng(changes)
    row = generator.integers(0, 1000, 300)
    other = row.copy()
    other[generator.choice(300, changes, replace=False)] += 1000
    shingles = hash_shingles([row, other])
    signatures = sign(shingles)

    (estimate,) = estimate_similarity(signatures, np.array([0]), signatures, np.array([1]))

    (exact,) = jaccard(*([one] for one in shingle_sets(shingles)))
    assert abs(estimate - exact) <= 5 * (exact * (1 - exact) / NUM_PERMUTATIONS) ** 0.5 + 1e-9
