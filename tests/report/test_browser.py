"""Pages of all sorts of suites in a browser, checked against LIMITS: both widths, both colour schemes, with and without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.report import browser as look
from tests.report import pages

# A browser, and every page drawn: about a minute.
pytestmark = pytest.mark.slow


class Limit(NamedTuple):
    """What a page may take: window heights before unfolding at 1280 x 800, bytes of the file, elements; None where any number may."""

    screens: float | None = None
    kilobytes: float | None = None
    nodes: int | None = None


DEFAULT = Limit(screens=10, kilobytes=600)
LARGE = Limit(kilobytes=1500, nodes=15_000)
LIMITS = dict.fromkeys(pages.PAGES, DEFAULT) | dict.fromkeys(("20 x 20 x 5", "50 methods", "40 problems"), LARGE)
"""Limits by page. Those of text hold for all pages."""
TEXT_PIXELS, CONTRAST = 9.0, 4.5

# Each width and each scheme once: colours do not depend on the width.
VIEWS = (look.WIDE, look.NARROW_DARK)
# The slowest check, in both views of the published page; each other page has its turn in one.
AXE = {name: (VIEWS[index % 2],) for index, name in enumerate(pages.PAGES)} | {"published": VIEWS}
# Like others but for a box or a column: one view, which axe sees too.
WIDE_ALONE = ("one method", "one seed", "equal", "two instruction sets")
AXE |= dict.fromkeys(WIDE_ALONE, (look.WIDE,))
# Each kind of content once more without scripts.
SCRIPTLESS = ("published", "one row", "all failed", "names")
# Tab by Tab.
KEYBOARD = ("published", "one row", "all failed")

CRITERIA = (
    *("screens", "kilobytes", "nodes", "sideways", "overflowing", "text", "contrast"),
    *("panels", "headers", "axe", "keyboard", "folds", "complaints", "scripts"),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The one browser of this file."""
    if look.find_chromium() is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium, or name one in $CHROMIUM")
    with look.launched() as started:
        yield started


@pytest.fixture
def show(chromium: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens HTML, or a file, in a view."""
    opened = []

    def open_in(page: Any, view: look.View = look.WIDE) -> Any:
        opened.append(look.opened(chromium, page, view))
        return opened[-1].__enter__()

    yield open_in
    for one in opened:
        one.__exit__(None, None, None)


def _judged(browser: Any, name: str) -> dict[str, list[str]]:
    """Return what is wrong with a page of `pages`, by criterion, with the view where it is."""
    limit = LIMITS[name]
    path = pages.page(name)
    found: dict[str, list[str]] = {criterion: [] for criterion in CRITERIA}

    def at_most(criterion: str, number: float, most: float | None) -> None:
        if most is not None and number > most:
            found[criterion].append(f"{number:.1f}, more than {most}")

    at_most("kilobytes", path.stat().st_size / 1000, limit.kilobytes)
    words = {}
    without_scripts = look.WIDE._replace(scripts=False)
    for view in (*VIEWS[: 1 if name in WIDE_ALONE else 2], *[without_scripts] * (name in SCRIPTLESS)):
        with look.opened(browser, path, view) as page:
            words[view] = look.words(page)
            if view == look.WIDE:
                at_most("screens", look.screens(page), limit.screens)
                at_most("nodes", look.nodes(page), limit.nodes)
            criteria: dict[str, list[str]] = {
                "sideways": look.sideways(page),
                "overflowing": look.overflowing(page),
                "folds": look.stuck_folds(page) if view.width == look.WIDE.width else [],
                "complaints": look.complaints(page),
            }
            if view.scripts:  # without them the same is drawn in the same colours
                criteria |= {
                    "text": look.small_text(page, TEXT_PIXELS),
                    "contrast": look.faint_text(page, CONTRAST),
                    "panels": look.empty_panels(page),
                    "headers": look.lost_headers(page),
                    "keyboard": look.unreached(page) if name in KEYBOARD and view == look.WIDE else [],
                    "axe": look.violations(page) if view in AXE[name] else [],
                }
        for criterion, complaints in criteria.items():
            found[criterion] += [f"{view}: {complaint}" for complaint in complaints]
    most, without = words[look.WIDE], words.get(without_scripts, words[look.WIDE])
    if without < most:
        found["scripts"].append(f"{most - without} of {most} words are only there with scripts")
    return found


@pytest.fixture(scope="module")
def judged(chromium: Any) -> Callable[[str], dict[str, list[str]]]:
    """A function from a page's name to what is wrong with it; each page is judged once."""
    known: dict[str, dict[str, list[str]]] = {}

    def judge(name: str) -> dict[str, list[str]]:
        if name not in known:
            known[name] = _judged(chromium, name)
        return known[name]

    return judge


@pytest.mark.parametrize("name", pages.PAGES)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_page_keeps_to_the_limits(criterion: str, name: str, judged: Any) -> None:
    found = judged(name)[criterion]
    assert not found, f"{len(found)} on the page of '{name}':\n" + "\n".join(found[:20])


def _page(body: str, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width"><title>t</title>'
        f"<style>body {{ margin: 0 }} {head}</style></head><body><main><h1>Title</h1>{body}</main></body></html>"
    )


_TALL = "<tr><td>1</td></tr>" * 100
_TABLE = f"<table><thead><tr><th>n</th></tr></thead><tbody>{_TALL}</tbody></table>"
_STICKY = "th { position: sticky; top: 0 }"
_SVG = '<svg viewBox="0 0 100 100" width="{}" role="img" aria-label="a"><path d="M5 5V95H95" fill="none" stroke="red"/>{}</svg>'
_MARKS = '<g role="group"><circle id="a" r="5" cx="20" cy="20" tabindex="0"/><circle id="b" r="5" cx="40" cy="20" tabindex="-1"/></g>'
_ARROWS = "<script>a.addEventListener('keydown', (event) => event.key === 'ArrowRight' && b.focus())</script>"

# Check, a page with the fault, a part of what is said of it, and a page without.
FAULTS: dict[str, tuple[Callable[[Any], list[str]], str, str, str]] = {
    "a wide document": (
        look.sideways,
        _page('<p style="width: 2000px">wide</p>'),
        "document by 720 px",
        _page('<div style="overflow-x: auto"><p style="width: 2000px">wide</p></div>'),
    ),
    "a nav that scrolls": (
        look.sideways,
        _page(f'<nav style="overflow-x: auto; white-space: nowrap">{"section " * 300}</nav>'),
        "<nav>",
        _page(f"<nav>{'section ' * 300}</nav>"),
    ),
    "text that leaves its box": (
        look.overflowing,
        _page('<div><p id="p" style="width: 40px">incomprehensibilities</p></div>'),
        "<p#p>",
        _page('<p style="width: 40px; overflow-wrap: anywhere">incomprehensibilities</p>'),
    ),
    "text that is cut off": (
        look.overflowing,
        _page('<p style="width: 40px; overflow: hidden">incomprehensibilities</p>'),
        "<p>",
        _page('<p style="width: 1px; height: 1px; overflow: hidden; position: absolute">for screen readers</p>'),
    ),
    "text that leaves its drawing": (
        look.overflowing,
        _page(_SVG.format(300, '<text x="90" y="50">beyond</text>')),
        "<text> beyond",
        _page(_SVG.format(300, '<text x="10" y="50">within</text>')),
    ),
    "small text": (
        lambda page: look.small_text(page, 9),
        _page('<p style="font-size: 8px">small</p>'),
        "8.0 px: <p> small",
        _page(
            '<p style="font-size: 9px">large</p><details><summary>a</summary><p style="font-size: 8px">folded</p></details>'
        ),
    ),
    "text that its drawing makes small": (
        lambda page: look.small_text(page, 9),
        _page(_SVG.format(60, '<text y="50" style="font-size: 12px">ab</text>')),
        "7.2 px: <text> ab",
        _page(_SVG.format(200, '<text y="50" style="font-size: 5px">ab</text>')),
    ),
    "faint text in a drawing": (
        lambda page: look.faint_text(page, 4.5),
        _page(_SVG.format(300, '<text y="50" fill="#888">ab</text>')),
        "3.54: <text> ab",
        _page(_SVG.format(300, '<text y="50" fill="#666">ab</text>')),
    ),
    "an empty panel": (
        look.empty_panels,
        _page(
            _SVG.format(
                300, '<text y="50">no marks</text><path d="M0 50H100" stroke="red"/><rect width="99" height="99"/>'
            )
        ),
        "a",
        _page(_SVG.format(300, '<circle cx="50" cy="50" r="3"/>') + '<svg width="16" height="16"><text>i</text></svg>'),
    ),
    "a head that sticks to what does not scroll": (
        look.lost_headers,
        _page(f'<div style="overflow-x: auto">{_TABLE}</div>', _STICKY),
        "<th> n at -",
        _page(_TABLE, _STICKY),
    ),
    "the head of a long table that does not stick": (
        look.lost_headers,
        _page(_TABLE),
        "<thead> n at -",
        _page(f'<div style="overflow: auto; max-height: 300px">{_TABLE}</div>', _STICKY),
    ),
    "a nav that does not stay": (
        look.lost_headers,
        _page('<div><nav style="position: sticky; top: 0">a</nav></div><div style="height: 5000px"></div>').replace(
            "<div><nav", '<div style="height: 200px; overflow-x: auto"><nav'
        ),
        "<nav> a at -",
        _page('<nav style="position: sticky; top: 0">a</nav><div style="height: 5000px"></div>'),
    ),
    "a mark out of reach": (
        look.unreached,
        _page(_SVG.format(300, _MARKS)),
        "<circle#b>",
        _page(_SVG.format(300, _MARKS) + _ARROWS),
    ),
    "a fold that stays shut": (
        look.stuck_folds,
        _page('<details><summary onclick="return false">more</summary>text</details>'),
        "more",
        _page("<details><summary>more</summary>text</details><details open><summary>less</summary>text</details>"),
    ),
    "an error": (look.complaints, _page("<script>missing()</script>"), "missing is not defined", _page("")),
    "a request": (
        look.complaints,
        _page('<img alt="" src="http://localhost:9/a.png">'),
        "requests http://localhost:9/a.png",
        _page('<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'),
    ),
    "an image without a name": (
        look.violations,
        _page("<img src='data:,'>"),
        "image-alt",
        _page("<img alt='a' src='data:,'>"),
    ),
    "faint text": (
        look.violations,
        _page('<p style="color: #999">faint</p>'),
        "color-contrast",
        _page('<p style="color: #555">clear</p>'),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_check_finds_its_fault_and_nothing_else(fault: str, show: Callable[..., Any]) -> None:
    check, bad, words, good = FAULTS[fault]
    found = check(show(bad))
    assert any(words in one for one in found), found
    assert check(show(good)) == []


def test_screens_words_and_elements_are_those_before_unfolding(show: Callable[..., Any]) -> None:
    page = show(
        _page('<details><summary>two words</summary>and <b>three more</b></details><div style="height: 2000px"></div>')
    )
    assert 2.5 < look.screens(page) < 2.7
    assert look.words(page) == 3
    assert look.nodes(page) == 12
    page.locator("summary").press("Enter")
    assert look.words(page) == 6


def test_views_differ_in_width_scheme_and_scripts(show: Callable[..., Any]) -> None:
    body = '<p id="p"></p><script>p.textContent = "made by a script"</script>'
    style = "p::after { content: 'a' } body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }"
    for view in (look.WIDE, look.NARROW_DARK, look.WIDE._replace(scripts=False)):
        page = show(_page(body, style), view)
        width, ground = page.evaluate("[innerWidth, getComputedStyle(document.body).backgroundColor]")
        assert (width, ground) == (view.width, "rgb(0, 0, 0)" if view.dark else "rgb(255, 255, 255)")
        assert look.words(page) == (5 if view.scripts else 1)


def test_axe_is_not_run_on_a_page_that_is_too_large_for_it(show: Callable[..., Any]) -> None:
    assert look.violations(show(_page("<i></i>" * 12_000))) == ["12008 elements: too many for axe"]
