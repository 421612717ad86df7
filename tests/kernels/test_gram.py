"""Gram matrices by blocks: the same numbers, resumed after a kill, kept by what they are of, and refused where they do not fit."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.kernels.convolutional import ConvNet
from metabench.kernels.dense import MLP, Kernels
from metabench.kernels.gram import Gram
from metabench.measure.memory.meter import measure_memory

NETWORK = MLP(2, "relu", 1.4, 0.1)
ARCHITECTURE = repr(NETWORK)


def _points(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((n, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Killed(Exception):
    """What a kernel raises where the run is to end."""


class Counted:
    """A kernel that counts its calls, and raises in place of one."""

    def __init__(self, last: int | None = None) -> None:
        self.calls: list[tuple[int, int]] = []
        self.last = last

    def __call__(self, rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
        if len(self.calls) == self.last:
            raise Killed
        self.calls.append((len(rows), len(columns)))
        return NETWORK.kernels(rows, columns)


def _equal(one: Kernels, other: Kernels) -> bool:
    return torch.equal(one.nngp, other.nngp) and torch.equal(one.ntk, other.ntk)


@pytest.mark.parametrize("block", [1, 3, 4, 10, 64])
def test_blocks_are_parts_of_the_whole_and_the_lower_half_is_not_computed(block: int) -> None:
    x, y, kernel = _points(10), _points(7, seed=1), Counted()
    gram = Gram(kernel, ARCHITECTURE, block=block)
    found, expected = gram.kernels(x), NETWORK.kernels(x)
    for one, other in ((found.nngp, expected.nngp), (found.ntk, expected.ntk)):
        assert torch.allclose(one, other, rtol=1e-15, atol=1e-15) and torch.equal(one, one.mT)
    a_side = -(-10 // block)
    assert len(kernel.calls) == a_side * (a_side + 1) // 2
    assert torch.allclose(gram.kernels(x, y).ntk, NETWORK.kernels(x, y).ntk, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("last", [0, 1, 4, 5])
@pytest.mark.parametrize("square", [True, False])
def test_a_run_that_was_killed_goes_on_and_has_the_same_bits(last: int, square: bool, tmp_path: Path) -> None:
    x = _points(10)
    points = (x,) if square else (x, _points(7, seed=1))
    whole = Counted()
    expected = Gram(whole, ARCHITECTURE, block=4).kernels(*points)
    killed = Counted(last)
    with pytest.raises(Killed):
        Gram(killed, ARCHITECTURE, tmp_path, block=4).kernels(*points)
    resumed = Counted()
    gram = Gram(resumed, ARCHITECTURE, tmp_path, block=4)
    assert _equal(gram.kernels(*points), expected)
    assert killed.calls + resumed.calls == whole.calls
    # What is left is one file, from which the next run reads.
    assert [path.name for path in tmp_path.iterdir()] == [f"{gram.key(*points)}.npz"]
    assert _equal(Gram(Counted(0), ARCHITECTURE, tmp_path, block=3).kernels(*points), expected)


def test_the_hash_tells_points_architecture_and_dtype_apart(tmp_path: Path) -> None:
    x = _points(5)
    keys = {
        Gram(NETWORK.kernels, architecture, tmp_path).key(*points)
        for architecture, points in itertools.product(
            (ARCHITECTURE, repr(MLP(3))),
            ((x,), (x, x), (x + 1e-15,), (x.float(),), (x[:4],), (x.view(3, 5),), (x[:3], x[3:])),
        )
    }
    assert len(keys) == 14
    gram = Gram(NETWORK.kernels, ARCHITECTURE, tmp_path, block=2)
    assert gram.key(x) == Gram(ConvNet().kernels, ARCHITECTURE, None, block=3).key(x.clone())
    assert gram.path(x) == tmp_path / f"{gram.key(x)}.npz" and Gram(NETWORK.kernels, ARCHITECTURE).path(x) is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flipped, _emptied])
def test_a_damaged_file_is_computed_anew_with_a_warning(damage: Callable[[Path], None], tmp_path: Path) -> None:
    x, kernel = _points(10), Counted()
    gram = Gram(kernel, ARCHITECTURE, tmp_path)
    expected, path = gram.kernels(x), gram.path(x)
    assert path is not None
    damage(path)
    with pytest.warns(UserWarning, match=rf"'{path}' is damaged and is computed anew"):
        assert _equal(gram.kernels(x), expected)
    assert len(kernel.calls) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _equal(gram.kernels(x), expected)
    assert len(kernel.calls) == 2


def test_a_damaged_block_is_computed_anew_and_the_others_are_not(tmp_path: Path) -> None:
    x, killed, resumed = _points(10), Counted(4), Counted()
    with pytest.raises(Killed):
        Gram(killed, ARCHITECTURE, tmp_path, block=4).kernels(x)
    _cut(sorted(tmp_path.glob("*.parts/*.npz"))[0])
    with pytest.warns(UserWarning, match="damaged"):
        found = Gram(resumed, ARCHITECTURE, tmp_path, block=4).kernels(x)
    assert len(resumed.calls) == 3 and _equal(found, Gram(Counted(), ARCHITECTURE, block=4).kernels(x))


def test_a_file_of_other_points_is_refused(tmp_path: Path) -> None:
    x, y = _points(6), _points(6, seed=1)
    gram = Gram(NETWORK.kernels, ARCHITECTURE, tmp_path)
    gram.kernels(x)
    one, other = gram.path(x), gram.path(y)
    assert one is not None and other is not None
    one.rename(other)
    with pytest.raises(MetabenchError) as error:
        gram.kernels(y)
    assert "of other data or another architecture" in str(error.value) and gram.key(x) in str(error.value)
    assert str(other) in str(error.value)


def test_a_gram_matrix_larger_than_memory_is_refused_before_it_starts() -> None:
    kernel = Counted(0)
    with pytest.raises(MetabenchError) as error:
        Gram(kernel, ARCHITECTURE, block=10, memory=100_000).kernels(_points(100))
    assert "100 by 100 points take 161,600 bytes, 1,600 of them for a block, and 100,000 are free" in str(error.value)
    assert Gram(Counted(), ARCHITECTURE, block=10, memory=161_600).kernels(_points(100)).ntk.shape == (100, 100)
    # Without a limit it is what the machine has: no points are copied here.
    many = torch.zeros(1, 1, dtype=torch.float64).expand(10_000_000, 1)
    with pytest.raises(MetabenchError, match="take 1,600,000,000,065,536 bytes"):
        Gram(kernel, ARCHITECTURE).kernels(many)


def test_the_cost_is_said_before_a_computation_starts(tmp_path: Path) -> None:
    x, said, kernel = _points(10), [], Counted()
    gram = Gram(kernel, ARCHITECTURE, tmp_path, block=4, report=lambda words: said.append((words, len(kernel.calls))))
    cost = gram.cost(x)
    # Three blocks a side: 16 + 16 + 8, 16 + 8, 4 pairs.
    assert cost.pairs == 68 and cost.seconds == 68 * cost.seconds_per_pair > 0
    assert cost.result_bytes == 2 * 100 * 8 and cost.block_bytes == 2 * 16 * 8 and cost.bytes == 1856
    kernel.calls.clear()
    gram.kernels(x)
    (words, before), blocks = said[0], 6
    assert words.startswith("6 of 6 blocks are left: 68 pairs at ") and words.endswith("1,856 bytes of memory")
    assert len(kernel.calls) - before == blocks
    gram.kernels(x)
    assert len(said) == 1


@pytest.mark.parametrize("readout", ["gap", "flatten"])
def test_memory_of_images_is_predicted_within_a_tenth(readout: Any, tmp_path: Path) -> None:
    size, n, block = (6, 12, 4) if readout == "gap" else (10, 60, 20)
    x = torch.rand((n, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = ConvNet(2, readout=readout)
    gram = Gram(
        network.kernels,
        repr(network),
        block=block,
        block_bytes=lambda rows, columns: network.block_bytes((rows, 1, size, size), columns),
    )
    _, memory = measure_memory(lambda: gram.kernels(x), x, "cpu")
    assert 0.9 < gram.cost(x).bytes / memory.dynamic_bytes < 1.1


def test_what_makes_no_gram_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="blocks of 0 points"):
        Gram(NETWORK.kernels, ARCHITECTURE, block=0)
    with pytest.raises(MetabenchError, match="a Gram matrix of 0 by 0 points"):
        Gram(NETWORK.kernels, ARCHITECTURE).kernels(_points(0))
    with pytest.raises(MetabenchError, match=r"the kernel of 5 by 5 points has the shape \[1, 5\]"):
        Gram(lambda rows, columns: NETWORK.kernels(rows[:1], columns), ARCHITECTURE).kernels(_points(5))
    (tmp_path / "file").write_text("")
    with pytest.raises(MetabenchError, match="cannot write"):
        Gram(NETWORK.kernels, ARCHITECTURE, tmp_path / "file" / "folder").kernels(_points(5))
