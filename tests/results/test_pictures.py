"""Pictures on disk and in the report: the pixels that were given, with their captions, and nothing that is none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from metabench.core.errors import MetabenchError
from metabench.core.pictures import LIMIT, Picture, picture_fault, sound_pictures
from metabench.core.randomness import generator
from metabench.report.sections.learned_optimisers.pictures import draw_pictures
from metabench.results.pictures import PICTURES_FILE, read_pictures
from metabench.results.schema import CELL_COLUMNS
from metabench.results.store import collect, read_rows, rows_of, write_rows


def noise(side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (side, side, 3), generator=generator(seed, "noise"), dtype=torch.uint8)


def make_row(cell: str, seed: int, pictures: Any) -> dict[str, Any]:
    texts = {column.name: "text" if str(column.type) == "string" else {} for column in CELL_COLUMNS if column.required}
    counts = {column.name: 1 for column in CELL_COLUMNS if column.required and str(column.type) == "int64"}
    known = texts | counts | {"exact": True, "status": "ok", "cell": cell, "seed": seed, "pictures": pictures}
    return {column.name: known.get(column.name) for column in CELL_COLUMNS}


def test_a_picture_is_a_png_file_of_its_pixels_and_128_by_128_of_noise_fit() -> None:
    pixels = noise(128)
    picture = Picture.of(pixels, "loss 1")
    read = pyplot.imread(io.BytesIO(picture.content), format="png")
    np.testing.assert_array_equal((read * 255).round().astype(np.uint8), pixels.numpy())
    assert picture_fault(picture) == ""
    assert 128 * 128 * 3 < len(picture.content) <= LIMIT


def test_what_is_no_picture_is_named_and_the_others_are_kept() -> None:
    fine = Picture.of(noise(2))
    found, message = sound_pictures({"a": fine, "b": 1, "c": Picture("%"), "d": Picture.of(noise(200))})
    assert found == {"a": fine}
    assert "no picture 'b': it is a int, not a Picture; no picture 'c': it is not a PNG file" in message
    assert "no picture 'd': it has 120," in message and message.endswith("more than 65,536")


def test_collected_pictures_are_those_of_the_rows(tmp_path: Path) -> None:
    first, second = (Picture.of(noise(4, seed), f"loss {seed}") for seed in (0, 1))
    of_rows = [{"x": first, "y": second}, None, {}, {"x": second}]
    for number, pictures in enumerate(of_rows):
        write_rows(tmp_path / f"{number}.parquet", [make_row(f"0000000{number}", number, pictures)])
    paths = [tmp_path / f"{number}.parquet" for number in range(len(of_rows))]
    assert rows_of(read_rows(paths[0]))[0]["pictures"] == of_rows[0]
    collect(paths, tmp_path / "results.parquet")
    path = tmp_path / PICTURES_FILE
    assert read_pictures(path) == {("00000000", 0): {"x": first, "y": second}, ("00000003", 3): {"x": second}}
    assert "pictures" not in read_rows(tmp_path / "results.parquet").schema.names
    with pytest.raises(MetabenchError, match=r"pictures '.*results.parquet' are of another version"):
        read_pictures(tmp_path / "results.parquet")
    collect(paths[1:3], tmp_path / "results.parquet")
    assert not path.exists()


def test_a_figure_has_every_picture_over_its_caption() -> None:
    rows = {
        "adam, tuned": {"x": Picture.of(noise(4), "loss 1")},
        "lstm": {"x": Picture.of(noise(4, 1), "loss 2"), "y": Picture.of(noise(8), "loss 3")},
    }
    axes = draw_pictures(rows).axes
    shown = [[place.get_ylabel(), place.get_xlabel(), len(place.get_images())] for place in axes]
    assert shown == [["adam, tuned", "loss 1", 1], ["", "", 0], ["lstm", "loss 2", 1], ["", "loss 3", 1]]
    (drawn,) = axes[2].get_images()
    np.testing.assert_array_equal((drawn.get_array() * 255).round(), noise(4, 1).numpy())
