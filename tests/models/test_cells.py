"""Cells: operations on the edges of a graph, at the FLOPs that torch counts; a space of them is searched, shared and mixed as any other."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import call, make_problem, relative_error
from torch.utils.flop_counter import FlopCounterMode

from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.models.cells import Cell, CellSpace, darts, edges_of
from metabench.models.choice_blocks import Choice
from metabench.models.spaces import SPACES, space
from metabench.models.supernet import Supernet
from metabench.problems.architecture_search import ArchitectureSearch
from metabench.problems.few_shot import FewShot
from metabench.search.driver import Cost, Search
from metabench.search.shared_weights import SharedTrainer, SharedTraining
from metabench.search.strategy import make_strategy

IMAGE, WAYS = (1, 8, 8), 3
SMALL: CellSpace = darts(nodes=2, width=4)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "cells", SMALL)


def drawn(count: int = 4) -> list[str]:
    return list(itertools.islice(SMALL.drawn(0, "test"), count))


def test_the_space_of_darts_has_two_cells_of_fourteen_edges() -> None:
    whole = space("darts")
    assert isinstance(whole, CellSpace) and whole.layers == 28 and whole.size == 8**28
    assert list(edges_of(2)) == [True, True, True, True, False]
    # Pooling follows the reduction cell's edges from an input alone.
    assert SMALL.halves == (False,) * 5 + (True, True, True, True, False)
    net = "-".join(["sep3", *["identity"] * 9])
    assert SMALL.read(net) == net and SMALL.operations_of(net)[0] == "sep3"
    with pytest.raises(MetabenchError, match="has 2 layers, and nets of space 'darts' have 10"):
        SMALL.read("sep3-zero")
    with pytest.raises(MetabenchError, match="too many to list"):
        whole.all()
    assert whole.largest() == "-".join(["sep5"] * 28)


@pytest.mark.parametrize("net", [*drawn(), SMALL.largest(), "-".join(["zero"] * 10)])
def test_parameters_and_flops_are_those_of_the_net(net: str) -> None:
    made = SMALL.net(net, IMAGE, WAYS)
    params = made.initial(torch.Generator().manual_seed(0), torch.float32)
    assert sum(leaf.numel() for leaf in params.values()) == SMALL.parameters(net, IMAGE, WAYS)
    with FlopCounterMode(display=False) as counter:
        scores = made.scores(params, torch.randn(1, *IMAGE))
    assert scores.shape == (1, WAYS) and counter.get_total_flops() == SMALL.flops(net, IMAGE, WAYS)


def test_a_node_is_the_sum_of_its_edges_and_a_cell_all_nodes_side_by_side() -> None:
    width, maps = 2, torch.randn(3, 2, 6, 6)
    edges = [Choice(name, width) for name in ("identity", "zero", "zero", "identity", "identity")]
    found = Cell(tuple(edges), 2, width).maps({}, maps)
    assert torch.equal(found, torch.cat([maps, 2 * maps], 1))
    kept = Cell(tuple(edges), 2, width, keeps=True).maps({}, maps)
    assert torch.equal(kept, torch.cat([maps, found], 1))


def test_cut_and_scatter_are_transposes_and_every_operation_has_its_own_weights() -> None:
    supernet = Supernet(SMALL, IMAGE, WAYS)
    shared = supernet.initial(torch.Generator().manual_seed(1), torch.float64)
    assert list(shared) == list(supernet.shapes)
    for net in drawn():
        leaves = supernet.cut(shared, net)
        assert list(leaves) == list(SMALL.net(net, IMAGE, WAYS).shapes())
        other = tree.tree_map(torch.randn_like, leaves)
        assert float(tree.dot(leaves, other)) == pytest.approx(float(tree.dot(shared, supernet.scatter(net, other))))


@pytest.mark.parametrize("method", ["mixflow", "forward"])
def test_exact_methods_agree_on_nets_of_cells(method: str) -> None:
    net = "-".join(["sep3", "max3", "identity", "dil5", "pool3", "sep5", "zero", "identity", "dil3", "max3"])
    problem = make_problem("few_shot", size="subnet", space="cells", architecture=net, tasks=1, learning_rate=0.05)
    meta, window = problem.initial(), next(iter(problem.windows()))[0]
    found, exact = (call(name, *problem.entered(window, None), meta, window).meta for name in (method, "unrolled"))
    assert relative_error(found, exact) < 1e-9


def test_shared_weights_are_trained_and_mixtures_select_a_net() -> None:
    problem = make_problem("few_shot", size="subnet", space="cells", architecture=drawn(1)[0], tasks=1)
    assert isinstance(problem, FewShot)
    *_, shared = SharedTrainer(problem, SharedTraining(outer_steps=1)).run()
    assert shared.adaptations == 8 and tree.all_finite(shared.weights)
    mixed = make_problem("architecture_search", space="cells")
    assert isinstance(mixed, ArchitectureSearch)
    meta = mixed.initial()
    assert len(meta) == 10 and SMALL.read(mixed.selected(meta)) == mixed.selected(meta)
    window = next(iter(mixed.windows()))[0]
    found, exact = (call(name, *mixed.entered(window, None), meta, window).meta for name in ("mixflow", "unrolled"))
    assert relative_error(found, exact) < 1e-9


@pytest.mark.parametrize("name", ["random", "evolution", "regularised_evolution", "local_search"])
def test_strategies_search_it(name: str) -> None:
    class Counting:
        tasks = 1

        def __call__(self, encoding: str, tasks: int) -> float:
            return float(encoding.count("sep3"))

        def cost(self, encoding: str, tasks: int) -> Cost:
            return Cost(tasks)

    search = Search.of(make_strategy(name, SMALL, 30, 0), Counting(), 30)
    assert len(list(search.run())) == 30 and search.best.count("sep3") >= 2
