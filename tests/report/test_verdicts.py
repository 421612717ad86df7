"""Verdicts hold what they say: false ones are as rare as stated, real differences are found, and two runs of one commit agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats

from metabench.report.verdicts import (
    ALPHA,
    MARGIN,
    Floor,
    Word,
    choose,
    compare,
    cosine_words,
    digits,
    floor,
    holm,
    memory_verdict,
    rank,
    same_computation,
    time_verdict,
)
from metabench.results.statistics import Estimate, intervals

# Test accuracy of label_noise on fashion_mnist_10k, mlp64, K = 1, seeds 0 to 4.
UNROLLED = [77.85, 78.65, 76.55, 77.55, 77.80]
PUBLISHED = {
    "unrolled": UNROLLED,
    "mixflow": [77.85, 78.70, 76.55, 77.50, 77.60],
    "t1t2": UNROLLED,
    "ift_neumann": [72.35, 77.15, 75.15, 76.95, 76.70],
    "evograd": [79.30, 79.75, 77.25, 78.30, 76.00],
    "none": [66.45, 60.15, 62.20, 64.55, 57.35],
}

Array = np.ndarray[Any, np.dtype[np.float64]]


def samples(rows: Mapping[str, list[float]]) -> dict[str, dict[int, float]]:
    return {method: dict(enumerate(values)) for method, values in rows.items()}


def overlap(one: Estimate, other: Estimate) -> bool:
    """Return whether two intervals overlap: what verdicts once went by."""
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    return one.low <= other.high and other.low <= one.high


def table(values: Array) -> dict[str, dict[int, float]]:
    """Return the samples of an array of shape (methods, seeds)."""
    return {f"m{index}": dict(enumerate(row)) for index, row in enumerate(values.tolist())}


# Quality


def test_holm_is_that_of_its_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_a_verdict_is_that_of_the_paired_t_test_adjusted_for_the_methods_of_the_setting() -> None:
    found = compare(samples(PUBLISHED), "unrolled", True)
    tested = ["mixflow", "ift_neumann", "evograd", "none"]
    p = [float(stats.ttest_rel(PUBLISHED[one], UNROLLED).pvalue) for one in tested]
    assert [found[one].p for one in tested] == pytest.approx(holm(p), rel=1e-9)
    assert found["none"].word == Word.WORSE and found["none"].text == "worse"
    assert found["t1t2"].word == Word.SAME and found["t1t2"].p is None and found["t1t2"].text == "the same to the digit"
    assert found["evograd"].text == "not told apart by 5 seeds"
    assert "unrolled" not in found and list(found) == ["mixflow", "t1t2", "ift_neumann", "evograd", "none"]


def test_pairing_tells_apart_what_overlapping_intervals_tie() -> None:
    """Means 75.7 and 77.7 whose intervals overlap, and a paired difference of -2.0 [-3.8, -0.9] or so: worse, not tied."""
    seeds = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    rows = {"unrolled": (77.7 + seeds).tolist(), "ift_neumann": (75.7 + seeds + [0.9, -1.1, 0.1, 1.0, -0.9]).tolist()}
    first, second = intervals(list(rows.values()))
    assert first.value - second.value == pytest.approx(2.0) and overlap(first, second)
    found = compare(samples(rows), "unrolled", True)["ift_neumann"]
    assert found.word == Word.WORSE and found.difference is not None
    assert found.difference.high is not None and found.difference.high < -0.5
    assert compare(samples(rows), "unrolled", False)["ift_neumann"].word == Word.BETTER
    assert rank(samples(rows), True).winner == "unrolled"


def test_five_differences_with_an_outlier_do_not_say_worse_though_their_bootstrap_interval_excluded_zero() -> None:
    """The published -2.0 [-3.8, -0.9] was a percentile interval; t gives [-4.5, 0.4], and the sign test cannot go below 1/16."""
    found = compare(samples({one: PUBLISHED[one] for one in ("unrolled", "ift_neumann")}), "unrolled", True)
    verdict = found["ift_neumann"]
    assert verdict.word == Word.NOT_TOLD_APART and verdict.p == pytest.approx(0.0848, abs=1e-3)
    assert verdict.difference is not None and verdict.difference.low == pytest.approx(-4.48, abs=0.01)
    assert verdict.difference.high == pytest.approx(0.44, abs=0.01)


def test_only_shared_seeds_count_and_fewer_than_three_give_no_verdict() -> None:
    found = compare({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {1: 0.0, 2: 0.0}, "c": {7: 1.0}, "d": {}}, "a", True)
    assert [verdict.text for verdict in found.values()] == [
        "no verdict: 2 seeds shared",
        "no verdict: no seed shared",
        "no verdict: no seed shared",
    ]
    assert found["b"].difference == Estimate(-2.5, None, None, 2) and found["c"].difference is None
    assert compare({"a": {0: 1.0}, "b": {0: 2.0}}, "a", True)["b"].text == "no verdict: 1 seed shared"


@pytest.mark.parametrize(("n", "word"), [(3, Word.NOT_TOLD_APART), (5, Word.NOT_TOLD_APART), (6, Word.BETTER)])
def test_of_equal_differences_only_the_signs_count(n: int, word: Word) -> None:
    values = {seed: 0.1 * seed for seed in range(n)}
    found = compare({"a": values, "b": {seed: value + 0.3 for seed, value in values.items()}}, "a", True)["b"]
    assert found.word == word and found.p == 2.0 ** (1 - n)
    assert found.difference is not None and found.difference.low is None


def test_what_is_not_finite_or_not_named_is_refused() -> None:
    for wrong in (math.nan, math.inf):
        for call in (compare, rank):
            with pytest.raises(ValueError, match="finite"):
                call({"a": {0: 1.0, 1: 1.0}, "b": {0: wrong, 1: 0.0}}, *(("a", True) if call is compare else (True,)))
        with pytest.raises(ValueError, match="finite"):
            choose({"a": {0: wrong}})
        with pytest.raises(ValueError, match="finite and positive"):
            floor("s", {"s": [(1.0, wrong)]}, 1)
        with pytest.raises(ValueError, match="finite and positive"):
            time_verdict(wrong, Floor(0.1, 3))
    with pytest.raises(ValueError, match="the reference 'c' is not among the methods a, b"):
        compare({"a": {}, "b": {}}, "c", True)


# Ranking


def test_a_ranking_of_one_method_or_of_none_has_no_winner() -> None:
    assert rank({}, True) == rank({"a": {}, "b": {}}, True)
    assert rank({"a": {}}, True).best is None
    alone = rank({"a": {0: 1.0, 1: 2.0, 2: 3.0}}, True)
    assert (alone.best, alone.verdicts, alone.winner) == ("a", {}, None)
    assert rank({"a": {0: 1.0}, "b": {0: 0.0}}, True).winner is None


def test_equal_qualities_have_no_winner_and_the_first_is_the_best() -> None:
    found = rank(samples({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}), True)
    assert (found.best, found.winner, found.verdicts["b"].word) == ("a", None, Word.SAME)


def test_the_same_computation_does_not_stand_in_the_way_of_a_winner() -> None:
    rows = samples({"unrolled": [9.0, 9.1, 9.3], "t1t2": [9.0, 9.1, 9.3], "none": [1.0, 1.2, 1.1]})
    assert rank(rows, True).winner is None
    assert rank(rows, True, same=[frozenset({"unrolled", "t1t2"})]).winner == "unrolled"
    assert rank(rows, True, ["unrolled", "t1t2"], [frozenset({"unrolled", "t1t2"})]).winner is None


def test_methods_that_lost_seeds_are_eligible_only_by_name() -> None:
    rows = {"a": {0: 1.0, 1: 1.1, 2: 1.3}, "b": {0: 0.5, 1: 0.7, 2: 0.6}, "lost": {2: 9.0}}
    found = rank(rows, True)
    assert found.best == "a" and set(found.verdicts) == {"b"}
    found = rank(rows, True, ["a", "b", "lost"])
    assert found.best == "lost" and found.winner is None


@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (2, 5), (2, 10), (5, 5), (20, 5)])
@pytest.mark.parametrize("noise", ["equal", "unequal", "two ahead"])
def test_of_tables_without_a_difference_at_most_one_in_twenty_names_a_winner(
    methods: int, seeds: int, noise: str
) -> None:
    generator = np.random.default_rng(methods * seeds)
    values = generator.normal(size=(1000, methods, seeds))
    if noise == "unequal":
        values *= np.geomspace(0.05, 5.0, methods)[:, None]
    if noise == "two ahead":
        values[:, 2:] -= 100.0
    values += 2 * generator.normal(size=(1000, 1, seeds))
    # Three standard errors of 1,000 tables above 5 %, which two equal methods reach.
    assert sum(rank(table(one), True).winner is not None for one in values) <= 71


@pytest.mark.parametrize(
    ("seeds", "methods", "ahead", "share"),
    [
        (5, 2, 3, 0.62),
        (5, 2, 4, 0.84),
        (5, 6, 6, 0.93),
        (5, 12, 6, 0.78),
        (10, 6, 4, 0.76),
        (20, 2, 3, 0.82),
        (50, 12, 4, 0.82),
    ],
)
def test_a_method_that_is_ahead_wins_in_the_share_that_is_stated(
    seeds: int, methods: int, ahead: float, share: float
) -> None:
    generator = np.random.default_rng(seeds + methods)
    values = generator.normal(size=(800, methods, seeds)) + generator.normal(size=(800, 1, seeds))
    values[:, 0] += ahead * math.sqrt(2 / seeds)
    found = sum(rank(table(one), True).winner == "m0" for one in values) / len(values)
    assert found == pytest.approx(share, abs=0.05)


def test_fifty_methods_are_ranked() -> None:
    values = np.random.default_rng(0).normal(size=(50, 5))
    values[7] += 30.0
    found = rank(table(values), True)
    assert found.winner == "m7" and len(found.verdicts) == 49
    assert {verdict.word for verdict in found.verdicts.values()} == {Word.WORSE}


# Variants of a swept method


def test_the_variant_with_the_least_mean_validation_loss_is_chosen() -> None:
    assert choose({"a": {0: 2.0, 1: 1.0}, "b": {0: 1.0, 1: 1.0}, "c": {0: 1.0, 1: 1.0}}) == "b"
    assert choose({"failed once": {0: 0.0}, "complete": {0: 9.0, 1: 9.0}}) == "complete"
    assert choose({"a": {0: 1.0, 1: 9.0}, "b": {1: 8.0, 2: 9.0}}) == "b"
    assert choose({"a": {}, "b": {}}) == "a"
    with pytest.raises(ValueError, match="no variant"):
        choose({})


@pytest.mark.parametrize(("methods", "correlation", "share"), [(4, 0.0, 0.2), (1, 0.0, 0.5), (1, 0.5, 0.72)])
def test_ten_variants_of_noise_are_best_no_more_than_one_unless_validation_shares_the_noise_of_the_test(
    methods: int, correlation: float, share: float
) -> None:
    generator = np.random.default_rng(3)
    best = winners = 0
    for _ in range(600):
        shared = generator.normal(size=5)
        validation = generator.normal(size=(10, 5))
        variants = {f"v{index}": dict(enumerate(losses)) for index, losses in enumerate(validation.tolist())}
        noise = correlation * validation + math.sqrt(1 - correlation**2) * generator.normal(size=(10, 5))
        test = dict(zip(variants, (noise + shared).tolist(), strict=True))
        others = {f"m{index}": (generator.normal(size=5) + shared).tolist() for index in range(methods)}
        found = rank(samples({"swept": test[choose(variants)], **others}), False)
        best += found.best == "swept"
        winners += found.winner == "swept"
    assert best / 600 == pytest.approx(share, abs=0.05) and winners / 600 <= (0.04 if correlation == 0 else 0.08)


# Cost


def test_methods_are_one_computation_if_digest_and_bytes_agree_on_every_shared_seed() -> None:
    one, other = {0: ("x", 8), 1: ("y", 8)}, {1: ("y", 8), 2: ("z", 8)}
    assert same_computation({"unrolled": one, "t1t2": one, "none": other, "mixflow": {0: ("x", 9)}}) == [
        frozenset({"unrolled", "t1t2", "none"})
    ]
    assert same_computation({"a": {0: ("x", 8)}, "b": {1: ("x", 8)}}) == []
    assert same_computation({"a": {0: (None, 8)}, "b": {0: (None, 8)}}) == []
    assert same_computation({"a": {0: ("x", 8), 1: ("y", 8)}, "b": {0: ("x", 8), 1: ("y", 9)}}) == []
    assert same_computation({}) == []


def test_bytes_are_exact() -> None:
    assert [memory_verdict(ours, 100) for ours in (99, 100, 101, None)] == [
        Word.LESS,
        Word.SAME_BYTES,
        Word.MORE,
        Word.NONE,
    ]


def test_a_floor_is_the_settings_own_noise_or_that_of_all() -> None:
    pairs = {"a": [(1.0, 1.2)], "b": [(1.0, 0.9)], "c": [(1.0, 1.1)], "d": [(1.0, 1.3)], "alone": []}
    found = floor("a", pairs, 2)
    logs = [math.log(1.2), math.log(0.9), math.log(1.1), math.log(1.3)]
    rms = math.sqrt(sum(one**2 for one in logs) / 4)
    assert found is not None and found.pairs == 4
    assert found.threshold == pytest.approx(stats.t.ppf(1 - ALPHA / 8, 4) * rms)
    assert floor("noisy", {"noisy": [(1.0, 4.0)] + [(1.0, 1.0)] * 60}, 1) == Floor(math.log(4.0), 61)


def test_a_hiccup_in_one_setting_makes_no_ties_in_the_others() -> None:
    ratios = (1.001, 1.003, 1.004, 1.006, 0.98, 0.98, 1.02, 0.97, 0.96, 0.997)
    quiet = {setting: [(1.0, ratio)] for setting, ratio in zip("abcdefghij", ratios, strict=True)}
    with_one = quiet | {"hiccup": [(1.0, 0.86)]}
    assert floor("a", quiet, 8) == Floor(MARGIN, 10) and floor("a", with_one, 8) == Floor(MARGIN, 11)
    found = floor("hiccup", with_one, 8)
    assert found is not None and found.threshold == pytest.approx(-math.log(0.86))


def test_what_is_within_the_margin_is_a_tie_whatever_the_noise() -> None:
    found = floor("a", {"a": [(1.0, 1.0)]}, 1)
    assert [time_verdict(ratio, found) for ratio in (0.86, 0.88, 1.14, 1.16)] == [
        *(Word.FASTER, Word.TIE, Word.TIE, Word.SLOWER)
    ]


def test_without_a_second_process_there_is_no_verdict_on_time() -> None:
    assert floor("a", {"b": [(1.0, 1.1)], "a": []}, 1) is None and floor("a", {}, 1) is None
    assert time_verdict(0.5, None) == time_verdict(None, Floor(0.1, 3)) == Word.NONE
    assert digits(0.7931, None) == "0.79 (noise not measured)"


@pytest.mark.parametrize(
    ("ratio", "noise", "text", "word"),
    [
        (0.7931, 0.05, "0.8", Word.FASTER),
        (0.7931, 0.01, "0.79", Word.FASTER),
        (0.7931, 0.3, "about 1", Word.TIE),
        (1.02, 0.03, "about 1", Word.TIE),
        (1.04, 0.03, "1.04", Word.SLOWER),
        (4.85, 0.1, "5", Word.SLOWER),
        (123.4, 0.05, "120", Word.SLOWER),
        (0.0312, 0.5, "0.03", Word.FASTER),
        (9.7, 2.0, "10", Word.SLOWER),
        (1.5, 0.0, "1.50", Word.SLOWER),
    ],
)
def test_a_ratio_has_the_digits_that_the_floor_allows(ratio: float, noise: float, text: str, word: Word) -> None:
    assert digits(ratio, Floor(noise, 7)) == text and time_verdict(ratio, Floor(noise, 7)) == word


def run(generator: np.random.Generator, noise: float | Array, true: Array) -> list[list[Word]]:
    """Return the verdicts on time of one run: true ratios of shape (settings, methods), a reference and one A/A pair per setting."""
    settings, methods = true.shape
    seconds = true * np.exp(np.reshape(noise, (-1, 1)) * generator.normal(size=true.shape))
    reference, one, other = np.exp(noise * generator.normal(size=(3, settings)))
    pairs = {setting: [(one[setting], other[setting])] for setting in range(settings)}
    floors = [floor(setting, pairs, methods) for setting in range(settings)]
    return [
        [time_verdict(ratio, floors[setting]) for ratio in (seconds[setting] / reference[setting]).tolist()]
        for setting in range(settings)
    ]


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("settings", [1, 2, 3, 5, 8, 12])
def test_two_runs_of_one_commit_agree_on_time_in_19_of_20_settings(noise: float, settings: int) -> None:
    generator = np.random.default_rng(settings)
    equal = np.ones((settings, 5))
    repeats = 1200 // settings
    agreed = [
        one == two
        for _ in range(repeats)
        for one, two in zip(*(run(generator, noise, equal) for _ in range(2)), strict=True)
    ]
    # Two standard errors of 1,200 settings, which are not independent: they share a floor.
    assert sum(agreed) / len(agreed) >= 0.95 - 0.0126 * (1 if settings == 1 else 1.5)
    unequal = np.exp(generator.uniform(-4 * noise, 4 * noise, (settings, 5)))
    for _ in range(repeats // 4):
        for one, two in zip(*(run(generator, noise, unequal) for _ in range(2)), strict=True):
            assert not any(
                {first, second} == {Word.FASTER, Word.SLOWER} for first, second in zip(one, two, strict=True)
            )


def test_if_noise_differs_between_settings_two_runs_still_agree_in_17_of_20() -> None:
    generator = np.random.default_rng(9)
    pairs: list[tuple[list[Word], list[Word]]] = []
    for _ in range(100):
        noise = 0.03 * np.exp(generator.uniform(-math.log(3), math.log(3), 12))
        pairs += zip(*(run(generator, noise, np.ones((12, 12))) for _ in range(2)), strict=True)
    assert sum(one == two for one, two in pairs) / len(pairs) >= 0.85


def test_times_without_a_difference_name_no_fastest() -> None:
    """Seven settings, equal methods, noise of 10 % between processes: the least ratio is another method's in each run, and all are ties."""
    generator = np.random.default_rng(1)
    ratios = np.exp(0.1 * generator.normal(size=(2, 7, 5)))
    assert np.sum(ratios[0].argmin(axis=1) == ratios[1].argmin(axis=1)) <= 2
    for one in ratios:
        pairs = {setting: [tuple(np.exp(0.1 * generator.normal(size=2)).tolist())] for setting in range(7)}
        for setting in range(7):
            assert {time_verdict(ratio, floor(setting, pairs, 5)) for ratio in one[setting].tolist()} == {Word.TIE}


def test_one_computation_under_two_names_has_no_verdict_on_time_nor_on_quality() -> None:
    """t1t2 is unrolled at K = 1: equal digests and bytes, equal accuracies, times of 0.79 to 1.02 times: noise."""
    entry = {seed: (f"digest {seed}", 1522692) for seed in range(5)}
    same = same_computation({"unrolled": entry, "t1t2": entry, "none": dict.fromkeys(range(5), ("other", 1468548))})
    assert same == [frozenset({"unrolled", "t1t2"})]
    assert rank(samples(PUBLISHED), True, same=same).verdicts["t1t2"].word != Word.WORSE
    ratios = [0.79, 0.88, 0.95, 1.02]
    pairs = {setting: [(1.0, ratio)] for setting, ratio in enumerate(ratios)}
    for setting, ratio in enumerate(ratios):
        assert time_verdict(ratio, floor(setting, pairs, 1)) == Word.TIE


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.1, 0.3, "not told apart from 0"), (0.0, 0.3, "not told apart from 0"), (0.1, 0.3, None), (None, None, None)],
)
def test_a_cosine_whose_interval_contains_zero_says_so(
    low: float | None, high: float | None, words: str | None
) -> None:
    assert cosine_words(Estimate(0.1, low, high, 5)) == words
