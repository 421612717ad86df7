"""Pictures of a page: the first screen and the whole, at both widths and in both colour schemes.

python -m tests.report.look results/default/results.parquet OUT    # the page of these rows
python -m tests.report.look '20 x 20 x 5' OUT                      # the page of a suite of tests/report/pages.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from metabench.report.build import build_page
from tests.report import browser, pages

# Chromium draws no surface higher than 16384 pixels.
_SLICE = 8000


def take_pictures(page: Path, out: Path) -> list[Path]:
    """Write `out`/WIDTH-SCHEME-first.png and -1.png, -2.png, ..., the whole page in slices of 8000 pixels; return their paths."""
    taken = []
    with browser.launched() as started:
        for view in browser.VIEWS:
            name = f"{view.width}-{'dark' if view.dark else 'light'}"
            with browser.opened(started, page, view) as tab:
                taken.append(out / f"{name}-first.png")
                tab.screenshot(path=taken[-1])
                height = int(browser.screens(tab) * view.height)
                for number, top in enumerate(range(0, height, _SLICE), 1):
                    taken.append(out / f"{name}-{number}.png")
                    part = {"x": 0, "y": top, "width": view.width, "height": min(_SLICE, height - top)}
                    tab.screenshot(path=taken[-1], full_page=True, clip=part)
    return taken


def main() -> None:
    """Draw the page into OUT, and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="results.parquet, or one of: " + ", ".join(pages.PAGES))
    parser.add_argument("out", type=Path, help="folder for index.html and the pictures")
    arguments = parser.parse_args()
    results = pages.results(arguments.results) if arguments.results in pages.PAGES else Path(arguments.results)
    for path in take_pictures(build_page(results, arguments.out), arguments.out):
        print(path)


if __name__ == "__main__":
    main()
