"""The page: one file that needs nothing else, with everything that ran in it."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.report.page.page import build_page, render_page
from metabench.report.results.provenance import warnings
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
def text(suite: Any) -> str:
    return render_page(suite)


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
    assert '<p class="lede">Made up for tests.</p>' in head


def test_a_suite_without_a_title_goes_by_its_name(load_rows: Any, synthetic: Any) -> None:
    text = render_page(load_rows([synthetic.row("unrolled", 0)], suite="name: synthetic"))
    assert "<h1>synthetic</h1>" in text and 'class="lede"' not in text


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
    assert text.index("<dt>Quality</dt>") < text.index("<table")


def test_columns_can_be_sorted_from_the_keyboard(page: _Page) -> None:
    headers = [attributes for tag, attributes in page.tags if tag == "th" and "aria-sort" in attributes]
    assert headers and all(attributes["aria-sort"] == "none" for attributes in headers)
    buttons = sum(1 for tag, attributes in page.tags if tag == "button" and attributes.get("type") == "button")
    assert buttons >= len(headers)
    assert sum(1 for tag, attributes in page.tags if tag == "td" and "data-sort" in attributes) > 500


def test_tables_scroll_in_their_own_container_and_the_ground_follows_the_reader(page: _Page, text: str) -> None:
    tables = sum(1 for tag, _ in page.tags if tag == "table")
    regions = [attributes for tag, attributes in page.tags if attributes.get("class") == "scroll"]
    assert len(regions) == tables and all(attributes.get("tabindex") == "0" for attributes in regions)
    assert "prefers-color-scheme: dark" in text and "@media print" in text and 'name="viewport"' in text


def test_every_status_message_and_label_is_on_the_page(text: str, suite: Any) -> None:
    for status in ("oom", "diverged", "timeout", "unsupported", "error"):
        assert f'class="badge {status}"' in text
    assert "aten::_scaled_dot_product_flash_attention_backward is not implemented &lt;see log&gt;" in text
    plain = text.replace("<wbr>", "")
    for label in suite.styles:
        assert f"<code>{label}</code>" in plain


def test_drawings_take_their_colours_from_the_page(text: str) -> None:
    drawings = re.findall(r'<svg viewBox="0 0 324.*?</svg>', text, flags=re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", drawing)
        assert "font-family" not in drawing


def test_the_page_says_whom_to_cite_and_what_was_run(text: str, suite: Any) -> None:
    for method in suite.metadata.methods:
        assert f"@article{{{method}2024," in text
    assert "No citation declared." in text
    assert "memory_bytes: 2147483648" in text
    for column in (*COLUMNS, *CURVE_COLUMNS):
        assert f"<code>{column.name}</code>" in text


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


def test_the_page_is_the_same_bytes_every_time(results: Path, tmp_path: Path) -> None:
    assert build_page(results, tmp_path / "a").read_bytes() == build_page(results, tmp_path / "b").read_bytes()


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
        "import sys, metabench.report.page.page, metabench.report.tables, metabench.report.figures\n"
        "bad = [m for m in sys.modules if m == 'torch' or m.startswith(('metabench.methods', 'metabench.problems'))]\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
