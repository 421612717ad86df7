"""The page: one file that needs nothing else, with everything that ran in it."""

from __future__ import annotations

import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.report.build import build_page
from metabench.report.drawing.marks import COINCIDENT, pulled_apart
from metabench.report.page.names import sort_keys
from metabench.report.page.page import render_page
from metabench.report.results.provenance import warnings
from metabench.report.tables.table import Bar, Cell
from metabench.results.curves import CURVE_COLUMNS
from metabench.results.schema import COLUMNS

_VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


class _Page(HTMLParser):
    """Collects tags with their attributes, and checks that every element is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(suite_page: str) -> str:
    return suite_page


@pytest.fixture(scope="module")
def page(text: str) -> _Page:
    return _Page(text)


def test_every_element_is_closed_and_no_name_is_given_twice(page: _Page) -> None:
    assert page.open == []
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert [name for name, number in ids.items() if number > 1] == []


def test_the_page_loads_nothing(page: _Page, text: str) -> None:
    for tag, attributes in page.tags:
        assert "src" not in attributes and tag not in ("link", "img", "iframe", "object")
        target = attributes.get("href") or ""
        assert not re.match(r"(?i)[a-z]+:|//", target), target
    assert "@import" not in text and "url(http" not in text


def test_links_within_the_page_lead_somewhere(page: _Page) -> None:
    ids = {attributes.get("id") for _, attributes in page.tags}
    inside = {target[1:] for _, attributes in page.tags if (target := attributes.get("href") or "").startswith("#")}
    assert inside <= ids
    assert {"answer", "coverage", "provenance", "configuration", "citations", "glossary"} <= ids


def test_the_head_says_what_the_suite_is(text: str) -> None:
    head = text[text.index("<header>") : text.index("</header>")]
    assert '<p class="kicker">metabench · suite synthetic</p>' in head
    assert "<h1>Synthetic rows</h1>" in head
    assert '<details class="about"><summary>About this suite</summary><p>Made up for tests.</p>' in head


def test_a_suite_without_a_title_goes_by_its_name(load_rows: Any, synthetic: Any) -> None:
    text = render_page(load_rows([synthetic.row("unrolled", 0)], suite="name: synthetic"))
    assert "<h1>synthetic</h1>" in text and 'class="about"' not in text


def test_the_glossary_says_how_much_an_interval_of_few_seeds_covers(text: str) -> None:
    glossary = text[text.index('id="glossary"') :]
    assert "normal, gamma, exponential and lognormal data in at least 92 %" in glossary


def test_the_answer_comes_first(text: str) -> None:
    assert (
        text.index('id="answer"')
        < text.index('id="task-')
        < text.index('id="coverage"')
        < text.index('id="provenance"')
    )
    assert text.index('<p class="headline">') < text.index('id="answer"') < text.index('id="table-overview"') < text.index("<svg")


def test_a_column_has_keys_to_sort_by_only_where_its_text_does_not_sort() -> None:
    assert sort_keys([Cell("9.5 [9, 10]", 9.51), Cell("−2", -2.0), Cell("–")]) == ["", "", ""]
    assert sort_keys([Cell("2 MiB", 2097152), Cell("900 KiB", 921600)]) == ["2.09715e+06", "921600"]
    assert sort_keys([Cell("a", "b"), Cell("b", "a")]) == ["b", "a"]


def test_plain_cells_are_one_element(page: _Page) -> None:
    cells = sum(1 for tag, _ in page.tags if tag == "td")
    inside = sum(1 for tag, attributes in page.tags if attributes.get("class") in ("badge ok", "value", "message"))
    assert cells > 500 and inside < cells


def test_marks_that_coincide_are_pulled_apart_and_others_stay() -> None:
    places = [(10.0, 10.0), (10.0, 10.0), (12.0, 11.0), (100.0, 50.0)]
    found = pulled_apart(places, ["a", "b", "c", "d"])
    assert found == pulled_apart(places, ["a", "b", "c", "d"]) and found[3] == places[3]
    assert min(math.dist(one, other) for at, one in enumerate(found) for other in found[:at]) > COINCIDENT
    assert max(math.dist(one, other) for one, other in zip(found, places, strict=True)) < 20
    assert pulled_apart(places[:2], ["a", "a"]) == places[:2]


def test_marks_say_their_row_and_have_the_class_of_their_legend(text: str, suite: Any) -> None:
    marks = re.findall(r'<path class="m (s\d+)" data-r="([^"]+)"', text)
    assert len(marks) > 50 and all(" at " in row or "from" in row for _, row in marks)
    buttons = dict(
        re.findall(r'<button type="button" class="(s\d+)" aria-pressed="true" disabled>([^<]+)</button>', text)
    )
    assert set(buttons.values()) <= set(suite.styles)
    assert {name for name, _ in marks} <= set(buttons) and all(f".{name}{{" in text for name in buttons)


def test_bars_and_rows_beyond_the_first_are_text_without_scripts(suite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from metabench.report.page import page as module
    from metabench.report.section import Part
    from metabench.report.tables.table import Column, Table

    rows = [{"a": Cell(f"row {index}", bars=(Bar("3 MiB", 0.25, "3145728 bytes"),))} for index in range(5)]
    table = Table("made", "Made", "A caption.", [Column("a", "A", numeric=False)], rows, rows_shown=2)
    monkeypatch.setattr(module, "contents", lambda suite: [Part("answer", "Answer", [table])])
    text = render_page(suite)
    assert text.count('<span class="bar" style="--w:25.0%" title="3145728 bytes">3 MiB</span>') == 5
    first, more = text.split('<tbody class="more">')
    assert "row 1<" in first and "row 2<" not in first and "row 4<" in more


def test_tables_scroll_in_their_own_container_and_the_ground_follows_the_reader(page: _Page, text: str) -> None:
    tables = sum(1 for tag, _ in page.tags if tag == "table")
    regions = [attributes for tag, attributes in page.tags if (attributes.get("class") or "").startswith("scroll")]
    assert len(regions) == tables and all(attributes.get("tabindex") == "0" for attributes in regions)
    assert "prefers-color-scheme: dark" in text and "@media print" in text and 'name="viewport"' in text


def test_every_status_message_and_label_is_on_the_page(text: str, suite: Any) -> None:
    for status in ("oom", "diverged", "timeout", "unsupported", "error"):
        assert f'class="badge {status}"' in text
    assert "aten::_scaled_dot_product_flash_attention_backward is not implemented &lt;see log&gt;" in text
    plain = text.replace("<wbr>", "")
    for label in suite.styles:
        assert re.search(rf'class="[^"]*name s\d+"[^>]*>{re.escape(label)}<', plain)


def test_drawings_take_their_colours_and_fonts_from_the_page(text: str) -> None:
    drawings = re.findall(r'<svg class="p".*?</svg>', text, flags=re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", drawing) and "font" not in re.sub(r">[^<]*<|-label=.*?>", "", drawing)
        assert all(not re.search(r"\.\d\d", d) for d in re.findall(r' d="([^"]*)"', drawing))


def test_the_page_says_whom_to_cite_and_what_was_run(text: str, suite: Any) -> None:
    for method in suite.metadata.methods:
        assert f"@article{{{method}2024," in text
    assert "no citation declared." in text
    assert "memory_bytes: 2147483648" in text
    for column in (*COLUMNS, *CURVE_COLUMNS):
        assert f"<dt>{column.name}</dt>" in text


def test_an_empty_suite_has_a_valid_page_that_says_so(empty_results: Path, tmp_path: Path) -> None:
    path = build_page(empty_results, tmp_path)
    assert path == tmp_path / "index.html"
    text = path.read_text()
    assert _Page(text).open == []
    assert "This suite has no rows" in text


def test_a_suite_in_which_everything_failed_has_a_page(load_rows: Any, synthetic: Any) -> None:
    text = render_page(
        load_rows([synthetic.row("unrolled", seed, status="oom", message="limit of 1 GiB") for seed in range(3)])
    )
    assert "3 of 3 runs did not finish: oom 3" in text
    assert "limit of 1 GiB" in text


def test_text_from_outside_is_escaped(load_rows: Any, synthetic: Any) -> None:
    evil = "<script>alert(1)</script>"
    changes = {"problem_variant": evil, "label": f"unrolled({evil})", "metric": evil, "hardware": evil}
    text = render_page(
        load_rows(
            [synthetic.row("unrolled", seed, **changes) for seed in range(3)],
            suite=f"title: '{evil}'\ndescription: '{evil}'",
        )
    )
    assert evil not in text
    assert _Page(text).open == []


def test_the_page_is_the_same_bytes_every_time(results: Path, text: str, tmp_path: Path) -> None:
    assert build_page(results, tmp_path / "a").read_text(encoding="utf-8") == text


def test_mixed_code_and_hardware_are_warned_of(load_rows: Any, synthetic: Any) -> None:
    rows = [
        synthetic.row("unrolled", 0),
        synthetic.row("unrolled", 1, code_hash="other", hardware="Another CPU", git_commit="abc+"),
    ]
    text = " ".join(warnings(load_rows(rows)))
    assert "unrolled on label_noise" in text and "different hardware" in text and "differed from their commit" in text


def test_a_suite_from_one_source_has_no_warnings(suite: Any) -> None:
    assert warnings(suite) == []


def test_results_that_are_not_there_are_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="no row file"):
        build_page(tmp_path / "results.parquet", tmp_path)


def test_the_report_needs_no_torch_methods_or_problems() -> None:
    import subprocess
    import sys

    script = (
        "import sys, metabench.report.build\n"
        "bad = [m for m in sys.modules if m == 'torch' or m.startswith(('metabench.methods', 'metabench.problems'))]\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
