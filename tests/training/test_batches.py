"""Batches: every sample exactly once, within limits, the same for the same seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.training.batches import BatchLimits, Layout, _fill_packed, epoch_batches, epoch_seed, padding_share

layouts = st.sampled_from(["padded", "packed"])
lengths_strategy = st.lists(st.integers(1, 60), max_size=200)
LIMITS = BatchLimits(rows=8, tokens=100)


@given(lengths_strategy, layouts, st.integers(0, 5))
def test_every_sample_is_in_exactly_one_batch(lengths: list[int], layout: Layout, seed: int) -> None:
    batches = epoch_batches(lengths, LIMITS, layout, seed)
    assert Counter(index for batch in batches for index in batch) == Counter(range(len(lengths)))


@given(lengths_strategy, st.integers(0, 5))
def test_a_padded_batch_stays_within_rows_and_padded_tokens(lengths: list[int], seed: int) -> None:
    for batch in epoch_batches(lengths, LIMITS, "padded", seed):
        assert len(batch) <= LIMITS.rows
        assert len(batch) * max(lengths[index] for index in batch) <= LIMITS.tokens


@given(lengths_strategy, st.integers(0, 5))
def test_a_pack_stays_within_its_tokens(lengths: list[int], seed: int) -> None:
    for batch in epoch_batches(lengths, LIMITS, "packed", seed):
        assert sum(lengths[index] for index in batch) <= LIMITS.tokens


@given(lengths_strategy, layouts)
def test_the_same_seed_gives_the_same_batches(lengths: list[int], layout: Layout) -> None:
    assert epoch_batches(lengths, LIMITS, layout, 7) == epoch_batches(lengths, LIMITS, layout, 7)


def test_another_seed_gives_another_order() -> None:
    lengths = list(range(1, 60))
    assert epoch_batches(lengths, LIMITS, "padded", 1) != epoch_batches(lengths, LIMITS, "padded", 2)


def test_grouping_by_length_leaves_little_padding() -> None:
    lengths = [1 + (index * 37) % 50 for index in range(2_000)]
    grouped = epoch_batches(lengths, BatchLimits(64, 4_000), "padded", 0)
    ungrouped = [tuple(range(start, min(start + 64, 2_000))) for start in range(0, 2_000, 64)]
    assert padding_share(grouped, lengths, "padded", 4_000) < 0.1 < padding_share(ungrouped, lengths, "padded", 4_000)


def test_a_sample_that_fits_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="101 tokens fits no batch of 100"):
        epoch_batches([101], LIMITS, "packed", 0)


@given(lengths_strategy)
def test_packs_are_those_of_best_fit_longest_first(lengths: list[int]) -> None:
    rooms: list[int] = []
    members: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = [pack for pack, room in enumerate(rooms) if room >= lengths[index]]
        if not fitting:
            rooms.append(LIMITS.tokens)
            members.append([])
        pack = min(fitting, key=lambda pack: rooms[pack]) if fitting else len(rooms) - 1
        rooms[pack] -= lengths[index]
        members[pack].append(index)
    assert _fill_packed(list(range(len(lengths))), lengths, LIMITS) == [tuple(pack) for pack in members]


def test_packs_of_short_rows_are_nearly_full() -> None:
    lengths = [1 + (index * 37) % 50 for index in range(5_000)]
    packs = epoch_batches(lengths, BatchLimits(64, 500), "packed", 0)
    assert 0 < padding_share(packs, lengths, "packed", 500) < 0.02


def test_what_packs_leave_unused_counts_as_padding() -> None:
    assert padding_share([(0, 1), (2,)], [60, 30, 90], "packed", 100) == pytest.approx(20 / 200)
    assert padding_share([(0, 1), (2,)], [60, 30, 90], "padded", 100) == pytest.approx(30 / 210)
    assert padding_share([], [], "packed", 100) == 0


def test_the_first_epoch_has_the_seed_and_no_epoch_has_that_of_another_seeds() -> None:
    seeds = [epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)]
    assert seeds[::20] == list(range(20))
    assert len(set(seeds)) == len(seeds)
