"""Few-shot classification on the page: what is compared is alike, and every method has its accuracy beside the kernel's."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from metabench.kernels.names import ACCURACY, EMBEDDING, MNK, MNK_GAIN, MNK_INTERVAL, PIXELS, WITHOUT
from metabench.report.numbers import ABSENT
from metabench.report.sections.kernel_study.classification import characters_figure, gain_table, width_figure

OPTIONS = {"labels": "embeddings", "network": "mlp", "adapts": "all", "proximal": 0.0, "test_tasks": 600}


def row_of(synthetic: Any, method: str, size: str, accuracy: float, seed: int = 0, **options: Any) -> dict[str, Any]:
    row = synthetic.row(method, seed, problem="regularisation", parameters=100, dataset="digits", size=size)
    chosen = {**OPTIONS, "characters": 20, **options}
    metrics = {ACCURACY: accuracy, PIXELS: 81.0, EMBEDDING: 86.0, WITHOUT: 78.0 - 10 * chosen["proximal"]}
    if size == "infinite":
        metrics |= {MNK: 88.0 + seed, MNK_GAIN: 6.0 + seed, MNK_INTERVAL: 0.6 + seed / 10}
    variant = ", ".join(f"{name}={value}" for name, value in sorted(chosen.items()) if OPTIONS.get(name) != value)
    cell = hashlib.sha256(f"{method} {size} {variant}".encode()).hexdigest()[:8]
    changed = {"problem_options": chosen, "problem_variant": variant, "quality": accuracy, "cell": cell}
    return row | {"metrics": metrics} | changed


@pytest.fixture
def suite(load_rows: Any, synthetic: Any) -> Any:
    rows = [
        row_of(synthetic, "unrolled", "infinite", 70.0 + characters / 2 + seed, seed, characters=characters, **options)
        for characters in (5, 20)
        for seed in (0, 1)
        for options in ({}, {"proximal": 0.3}, {"adapts": "head"}, {"labels": "one_hot"}, {"network": "flatten"})
    ]
    rows += [row_of(synthetic, "unrolled", size, 60.0 + place) for place, size in enumerate(("w64", "w256"))]
    return load_rows(rows)


def test_a_panel_has_accuracies_of_one_network_and_one_kind_of_labels(suite: Any) -> None:
    figure = characters_figure(suite)
    assert figure is not None
    panels = {panel.title: panel for panel in figure.panels + figure.omitted}
    assert list(panels) == [
        "infinite, MLP · labels: embeddings",
        "infinite, MLP · one-hot labels",
        "infinite, convolutions (flatten) · labels: embeddings",
    ]
    first, one_hot, _ = panels.values()
    named = {point.label for point in first.points}
    assert {"unrolled", "unrolled (iMAML)", "unrolled (ANIL)", "Meta Neural Kernel"} < named
    assert {point.label for point in one_hot.points if point.label.startswith("unrolled")} == {"unrolled"}
    (at_20,) = [point for point in first.points if point.label == "unrolled" and point.x == 20]
    assert (at_20.y, at_20.y_low, at_20.y_high, at_20.n) == (80.5, 80.0, 81.0, 2)
    # Without meta-learning: by MAML's inner run, not by that with a proximal term.
    assert {point.y for point in first.points if point.label == "no meta-learning"} == {78.0}
    assert named <= set(figure.styles)


def test_the_limit_is_a_line_beside_the_widths_of_its_own_kind(suite: Any) -> None:
    figure = width_figure(suite)
    assert figure is not None
    (panel,) = figure.panels
    assert panel.title == "20 characters, MLP · labels: embeddings"
    assert [(point.x, point.y) for point in panel.points] == [(64, 60.0), (256, 61.0)]
    assert [(rule.words, rule.value) for rule in panel.rules] == [("unrolled, infinite", 80.5)]


def test_the_table_has_every_method_beside_the_kernel(suite: Any) -> None:
    table = gain_table(suite)
    assert table is not None
    assert [(one["network"], one["labels"], one["characters"]) for one in table.records] == [
        ("flatten", "embeddings", 5),
        ("flatten", "embeddings", 20),
        ("mlp", "embeddings", 5),
        ("mlp", "embeddings", 20),
        ("mlp", "one_hot", 5),
        ("mlp", "one_hot", 20),
    ]
    found = table.records[3]
    assert found["n"] == 2 and found[MNK] == 88.5 and found[MNK_GAIN] == 6.5 and found["gain_interval"] == 0.7
    assert [found[name] for name in ("unrolled", "unrolled (iMAML)", "unrolled (ANIL)")] == [80.5] * 3
    # Nothing adapts the head alone by convolutions.
    assert table.records[0]["unrolled (ANIL)"] is None and table.rows[0]["unrolled (ANIL)"].text == ABSENT
    assert table.to_latex().count(r"\\") >= len(table.rows)
    assert {column.key for column in table.columns} >= set(table.rows[3])


def test_where_no_row_classifies_there_is_nothing(load_rows: Any, synthetic: Any) -> None:
    plain = load_rows([synthetic.row("unrolled", 0, problem="regularisation", parameters=100, dataset="digits")])
    assert characters_figure(plain) is width_figure(plain) is gain_table(plain) is None
