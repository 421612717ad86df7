"""Pages in a headless Chromium: what a reader sees of them, as numbers and lists of offenders. `browser.js` measures in the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Offenders named per rule: a rule that every cell of a table breaks needs no thousand lines.
_NAMED = 3
# Summaries that are opened, spread over the page.
_FOLDS = 3
# axe takes a millisecond per element and more. It is spared what repeats, and is not run on more elements than these.
_AXE_SPARED = (
    "tbody tr:nth-child(n+13), svg :is(path, circle, ellipse, rect, line, polyline, polygon, use, text, tspan)"
    ":not(a *, [tabindex], [tabindex] *, [role], [aria-label])"
)
_AXE_NODES = 12_000


class View(NamedTuple):
    """How a page is looked at: window in CSS pixels, colour scheme, and whether scripts run."""

    width: int
    height: int
    dark: bool = False
    scripts: bool = True

    def __str__(self) -> str:
        return f"{self.width}{' dark' if self.dark else ''}{'' if self.scripts else ' without scripts'}"


WIDE, NARROW = View(1280, 800), View(390, 844)
WIDE_DARK, NARROW_DARK = WIDE._replace(dark=True), NARROW._replace(dark=True)
VIEWS = (WIDE, WIDE_DARK, NARROW, NARROW_DARK)


def find_chromium() -> str | None:
    """Return the path of the system's Chromium or Chrome, $CHROMIUM first; None if there is none."""
    names = (os.environ.get("CHROMIUM"), *_NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """Start the system's Chromium for as long as the context lasts. Raises RuntimeError where there is none."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        raise RuntimeError("no Chromium on PATH: apt-get install chromium, or name one in $CHROMIUM")
    # Containers have little shared memory, and Chromium refuses to sandbox itself as root.
    arguments = ["--disable-dev-shm-usage", *["--no-sandbox"] * (os.geteuid() == 0)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, page: Path | str, view: View) -> Iterator[Page]:
    """Open a page, given as a file or as HTML; `complaints` has what it logs, throws or requests from elsewhere."""
    context = browser.new_context(
        viewport={"width": view.width, "height": view.height},
        color_scheme="dark" if view.dark else "light",
        java_script_enabled=view.scripts,
        reduced_motion="reduce",
    )
    try:
        tab = context.new_page()
        found: list[str] = []
        tab.on("pageerror", lambda error: found.append(f"throws {error}"))
        tab.on("console", lambda line: found.append(f"logs {line.text}") if line.type in ("error", "warning") else None)
        tab.on("request", lambda request: found.append(f"requests {request.url}") if not _own(request.url) else None)
        if isinstance(page, Path):
            tab.goto(page.resolve().as_uri())
        else:
            tab.set_content(page)
        tab.evaluate(_SCRIPT)
        _COMPLAINTS[tab] = found
        yield tab
    finally:
        _COMPLAINTS.pop(tab, None)
        context.close()


_COMPLAINTS: dict[Page, list[str]] = {}


def _own(url: str) -> bool:
    return url.startswith(("file:", "data:", "about:", "blob:"))


def complaints(page: Page) -> list[str]:
    """Return errors, warnings and requests to other hosts since the page was opened."""
    return list(_COMPLAINTS[page])


def _judge(page: Page, name: str, *values: float) -> Any:
    return page.evaluate(f"(values) => judge.{name}(...values)", list(values))


def screens(page: Page) -> float:
    """Return the height of the page, as it opens, in heights of the window."""
    return float(_judge(page, "screens"))


def words(page: Page) -> int:
    """Return how many words are visible, those in drawings included and folded ones not."""
    return int(_judge(page, "words"))


def nodes(page: Page) -> int:
    """Return the number of elements of the document."""
    return int(_judge(page, "nodes"))


def sideways(page: Page) -> list[str]:
    """Return by how many pixels the document, or a nav, is wider than the window shows."""
    return list(_judge(page, "sideways"))


def overflowing(page: Page) -> list[str]:
    """Return elements whose content sticks out of them or is cut off; what scrolls is neither."""
    return list(_judge(page, "overflowing"))


def small_text(page: Page, least: float) -> list[str]:
    """Return visible text below `least` pixels as it appears, with the scale of its SVG."""
    return list(_judge(page, "small", least))


def faint_text(page: Page, least: float) -> list[str]:
    """Return text in drawings whose contrast with the ground behind them is below `least`; `violations` has all other text."""
    return list(_judge(page, "faint", least))


def empty_panels(page: Page) -> list[str]:
    """Return drawings that have text, ticks and rules, but no mark."""
    return list(_judge(page, "empty"))


def lost_headers(page: Page) -> list[str]:
    """Return sticky elements that move with the page, and heads of tables taller than the window that leave it."""
    return list(_judge(page, "lost"))


def unreached(page: Page) -> list[str]:
    """Return the visible controls and marks that neither Tab, nor arrow keys in a drawing whose marks share one stop, reach."""
    page.evaluate("document.activeElement.blur()")
    for _ in range(int(_judge(page, "controls")) + 1):
        page.keyboard.press("Tab")
    for drawing in range(int(_judge(page, "groups"))):
        for _ in range(int(_judge(page, "enter", drawing))):
            page.keyboard.press("ArrowRight")
    return list(_judge(page, "unseen"))


def stuck_folds(page: Page) -> list[str]:
    """Return summaries that Enter does not open and close again, of at most three spread over the page."""
    folds = page.locator("summary:visible").all()
    found = []
    for fold in folds[:: -(-len(folds) // _FOLDS) or 1]:
        before = fold.evaluate("(summary) => summary.parentElement.open")
        fold.focus()
        for wanted in (not before, before):
            page.keyboard.press("Enter")
            if fold.evaluate("(summary) => summary.parentElement.open") != wanted:
                found.append(fold.inner_text())
                break
    return found


def violations(page: Page) -> list[str]:
    """Return what axe-core finds, contrast of text outside drawings included: one line per rule, with examples. Needs scripts.

    Removes rows of tables after the twelfth, and shapes and text of drawings that nothing names or focuses: run it last.
    """
    # PyPI has axe.min.js in this package; its own wrapper is not needed.
    import axe_playwright_python

    page.evaluate(
        "(spared) => { for (const element of document.querySelectorAll(spared)) element.remove(); }", _AXE_SPARED
    )
    if nodes(page) > _AXE_NODES:
        return [f"{nodes(page)} elements: too many for axe"]
    page.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate(
        """async (named) => (await axe.run({resultTypes: ["violations"]})).violations.map((rule) =>
            `${rule.id} (${rule.impact}) ${rule.nodes.length} times: ` +
            rule.nodes.slice(0, named).map((node) => node.html.slice(0, 90)).join("; "))""",
        _NAMED,
    )
    return list(found)
