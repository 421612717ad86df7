"""A tiny image set in real IDX files, and a server on this machine that knows ranges and can die midway."""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from metabench.data import DataFile, Dataset, DatasetCard, registry
from metabench.data.contract import Source
from metabench.data.formats import idx
from metabench.data.formats.images import classification

NAMES = ("train-images.gz", "train-labels.gz", "test-images.gz", "test-labels.gz")


@dataclass
class TinySet:
    """Six train and two test images of two classes, of 40 x 40 pixels of noise: a file of about 10 kB."""

    contents: dict[str, bytes]
    images: np.ndarray
    labels: np.ndarray

    @property
    def files(self) -> tuple[DataFile, ...]:
        return tuple(
            DataFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in self.contents.items()
        )

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        return folder

    def declare(self, monkeypatch: pytest.MonkeyPatch, *sources: Source) -> Dataset:
        """Make this the only data set there is, under the name 'tiny'."""
        card = DatasetCard(
            name="tiny",
            title="Tiny",
            task="classification",
            licence="none",
            attribution="",
            source="noise",
            citation="",
            sizes={"train": 6, "test": 2},
            classes=("even", "odd"),
            fetched=True,
            files=self.files,
        )
        tiny = Dataset(card, functools.partial(classification, names=NAMES, classes=card.classes), sources)
        monkeypatch.setattr(registry, "_declared", lambda plugins: {"tiny": tiny})
        return tiny


@pytest.fixture
def tiny() -> TinySet:
    images = np.random.default_rng(0).integers(0, 256, size=(8, 40, 40), dtype=np.uint8)
    labels = np.arange(8, dtype=np.uint8) % 2
    arrays = (images[:6], labels[:6], images[6:], labels[6:])
    contents = {name: gzip.compress(idx.encode(array), mtime=0) for name, array in zip(NAMES, arrays, strict=True)}
    return TinySet(contents, images, labels)


@dataclass
class RangeServer:
    """Serves `contents`. `cuts` says for each coming request after how many bytes the connection dies (None: not)."""

    contents: dict[str, bytes]
    address: str = ""
    cuts: list[int | None] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True


@pytest.fixture
def server(tiny: TinySet) -> Iterator[RangeServer]:
    state = RangeServer(dict(tiny.contents))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, asked = self.path.lstrip("/"), self.headers.get("Range")
            state.asked.append((name, asked))
            if name not in state.contents:
                self.send_error(404)
                return
            whole = state.contents[name]
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and state.ranges else 0
            if start:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else None
            self.wfile.write(whole[start:] if cut is None else whole[start : start + cut])

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.address = f"http://127.0.0.1:{running.server_port}/"
        yield state
        running.shutdown()
        thread.join()
