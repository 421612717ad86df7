"""Tables of nets: what is stored is what is trained, shard by shard; rankings, fitness and commands on them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bilevel import cached_data, call, make_problem, relative_error
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from metabench.autodiff.unrolled.sweep import through_graph
from metabench.cli.app import app
from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable, decode, encode
from metabench.models.search_space import Space
from metabench.models.spaces import SPACES
from metabench.results import net_tables as names
from metabench.search.agreement import additive, agreement, of_domains, of_itself
from metabench.search.driver import Search
from metabench.search.fitness import SupernetFitness, TableFitness, TrainFitness, adaptation_cost, first_task
from metabench.search.flops import of_training
from metabench.search.shared_weights import SharedTrainer, SharedTraining
from metabench.search.strategy import make_strategy
from metabench.search.study import Entrant, paired, searched
from metabench.search.table_builder import Builder, TableSettings, read_settings, shard_file, shards
from metabench.tasks.trained import side_by_side

FOUR = Space("four", "two layers of two operations", ("conv3", "pool3"), (True, True), (4,))
FEW = TableSettings(
    space="four",
    way="meta",
    method="unrolled",
    seeds=(0, 1),
    outer_steps=2,
    inner_steps=3,
    tasks=(6, 8),
    steps=(1, 3),
    options={"ways": 3, "queries": 2, "tasks": 2},
)


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "four", FOUR)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NetTable]:
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "four", FOUR)
        builder = Builder(FEW)
        for net, seed in shards(FEW):
            builder.shard(net, seed, folder)
        return folder, builder.collected(folder)


def made_table(nets: int = 125, seeds: int = 3, tasks: int = 300) -> NetTable:
    """Return a table of the space 'tiny' in which a net's quality is additive, and noise is that of answers."""
    space, stream = SPACES["tiny"], np.random.Generator(np.random.PCG64(0))
    quality = 0.6 + 0.05 * space.one_hot(space.all()[:nets]) @ stream.normal(size=15)
    right = {
        part: stream.binomial(25, np.clip(quality, 0.2, 0.95)[:, None, None, None], (nets, seeds, 1, tasks)).astype(
            np.uint8
        )
        for part in (VALIDATION, TEST)
    }
    about = {
        "space": "tiny",
        "ways": 5,
        "shots": 1,
        "queries": 5,
        "inner_steps": 3,
        "image": [1, 16, 16],
        "training_adaptations": 600,
        "training_gradients": 2400,
    }
    costs = {name: np.arange(1.0, nets + 1) for name in ("parameters", "flops", "training_flops", "seconds")}
    pixels = {part: np.full(tasks, 12, np.uint8) for part in right}
    domains = dict.fromkeys(right, ("script",) * tasks)
    return NetTable(about, space.all()[:nets], tuple(range(seeds)), (3,), domains, right, pixels, costs)


def test_a_table_is_what_its_file_says(built: tuple[Path, NetTable]) -> None:
    _, table = built
    again = decode(encode(table), "table")
    for field in ("nets", "seeds", "steps", "domains"):
        assert getattr(again, field) == getattr(table, field)
    assert again.about == table.about
    for part in (VALIDATION, TEST):
        assert np.array_equal(again.right[part], table.right[part]) and np.array_equal(
            again.pixels[part], table.pixels[part]
        )
        assert np.allclose(again.accuracies(part), table.accuracies(part))
    assert encode(again) == encode(table)


def test_a_table_holds_every_net_and_seed_on_the_same_tasks(built: tuple[Path, NetTable]) -> None:
    _, table = built
    assert table.nets == FOUR.all() and table.seeds == (0, 1)
    assert table.right[TEST].shape == (4, 2, 2, 8) and table.right[VALIDATION].shape == (4, 2, 2, 6)
    assert table.right[TEST].max() <= 6 == table.asked
    # Seeds differ in training, not in tasks.
    assert not np.array_equal(table.right[TEST][:, 0], table.right[TEST][:, 1])
    assert table.domains[TEST][:4] == ("Arabic", "Telugu", "Malayalam", "Katakana")
    assert table.costs["parameters"].tolist() == [FOUR.parameters(net, (1, 16, 16), 3) for net in table.nets]


def test_shards_are_kept_repeat_and_come_in_parts(built: tuple[Path, NetTable], tmp_path: Path) -> None:
    folder, _ = built
    assert sorted(shards(FEW)) == sorted([*shards(FEW, (0, 3)), *shards(FEW, (1, 3)), *shards(FEW, (2, 3))])
    builder = Builder(FEW)
    net, seed = shards(FEW)[3]
    again = np.load(builder.shard(net, seed, tmp_path))
    first = np.load(shard_file(folder, net, seed))
    assert all(np.array_equal(again[part], first[part]) for part in (VALIDATION, TEST))
    before = shard_file(folder, net, seed).stat().st_mtime_ns
    builder.shard(net, seed, folder)
    assert shard_file(folder, net, seed).stat().st_mtime_ns == before
    with pytest.raises(MetabenchError, match="the shard of 'conv3-conv3' with seed 0 is missing"):
        builder.collected(tmp_path)
    with pytest.raises(MetabenchError, match="has the hash"):
        Builder(dataclasses.replace(FEW, outer_steps=3)).shard(net, seed, folder)


def test_a_damaged_file_is_no_table(built: tuple[Path, NetTable]) -> None:
    content = encode(built[1])
    for damaged in (content[:-40], b"", content[:20] + b"x" + content[21:]):
        with pytest.raises(MetabenchError, match="holds no table of nets"):
            decode(damaged, "table.xz")


def test_what_a_table_lacks_is_refused(built: tuple[Path, NetTable]) -> None:
    table = built[1]
    for ask, said in (
        (lambda: table.row("conv3-pool33"), "unknown net of the table 'conv3-pool33': did you mean"),
        (lambda: table.accuracies("tset"), "unknown part of the table 'tset'"),
        (lambda: table.accuracies(TEST, steps=2), "no answers after 2 steps"),
        (lambda: table.accuracies(TEST, seeds=[5]), "the table has no seed 5"),
        (lambda: TableFitness(table, FOUR, 0, 7), "7 validation tasks, and the table has 6"),
    ):
        with pytest.raises(MetabenchError) as refused:
            ask()
        assert said in str(refused.value)


def test_agreement_is_that_of_rankings() -> None:
    truth = np.arange(20.0)
    same, turned = agreement("same", truth, truth), agreement("turned", -truth, truth)
    assert (same.kendall, same.spearman, same.best) == pytest.approx((1, 1, 1))
    assert (turned.kendall, turned.best) == pytest.approx((-1, -1))
    noise = np.random.Generator(np.random.PCG64(0)).normal(size=100)
    nothing = agreement("nothing", noise, np.arange(100.0))
    assert nothing.low < 0 < nothing.high


def test_seeds_of_a_made_table_agree_and_it_is_additive() -> None:
    table = made_table()
    found = {one.what: one for one in of_itself(table)}
    assert found[names.VALIDATION_TASKS].kendall > 0.9
    assert found[names.ANOTHER_SEED].kendall > 0.8
    assert abs(found[names.BY_PARAMETERS].kendall) < 0.6
    assert all(one.best < one.kendall for name, one in found.items() if "seed" in name)
    assert additive(table, SPACES["tiny"].one_hot(table.nets)) > 0.95


def test_fitness_of_a_table_is_the_mean_over_tasks_that_the_seed_draws() -> None:
    table, space = made_table(), SPACES["tiny"]
    net = table.nets[17]
    whole = TableFitness(table, space, 0)
    assert whole(net, whole.tasks) == pytest.approx(float(table.accuracies(VALIDATION)[17]))
    one, other = TableFitness(table, space, 1, 10, training_seed=4), TableFitness(table, space, 2, 10, training_seed=4)
    assert one(net, 10) != other(net, 10)
    assert one(net, 10) == TableFitness(table, space, 1, 10, training_seed=4)(net, 10)
    # Training seed 4 of three is 1.
    drawn = 4 * table.right[VALIDATION][17, 1, 0][one._order[:10]].mean()
    assert one(net, 10) == pytest.approx(float(drawn))
    best = table.nets[int(table.accuracies(TEST).argmax())]
    assert one.regret(best) == 0 < one.regret(table.nets[int(table.accuracies(TEST).argmin())])
    assert one.cost(net, 10).flops > one.cost(net, 5).flops > 0


def test_evolution_with_a_ridge_beats_random_search_on_a_table() -> None:
    table, space = made_table(), SPACES["tiny"]
    found = {
        name: [
            searched(Entrant.read(name), space, 25, seed, judge := TableFitness(table, space, seed), judge.regret).test
            for seed in range(30)
        ]
        for name in ("random", "evolution+ridge")
    }
    difference = paired(found["evolution+ridge"], found["random"])
    assert difference.mean + difference.half < 0 and difference.losses > difference.wins
    assert difference.pairs == 30
    alone = paired([1.0], [0.5])
    assert alone.mean == 0.5 and np.isnan(alone.half)
    with pytest.raises(MetabenchError, match="2 and 1 outcomes make no pairs"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("net", ["conv3-conv3", "pool3-conv3"])
def test_flops_of_an_adaptation_are_those_that_torch_counts(net: str, head: bool) -> None:
    problem = Builder(dataclasses.replace(FEW, options={**FEW.options, "adaptation": "head" if head else "start"}))._problems[0].subnet(net)
    (_, meta), window = problem.initial_state(), next(problem.windows())[0]
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in meta.items() if not head or name.startswith("head.")}
    with FlopCounterMode(display=False) as counter:
        for batch in window.inner:
            torch.autograd.grad(problem.inner_loss(leaves, meta, batch), list(leaves.values()))
        with torch.no_grad():
            problem.outer_loss(leaves, meta, window.outer[-1])
    expected = adaptation_cost(FOUR, net, (1, 16, 16), 3, (3, 6), len(window.inner), head=head)
    assert expected.flops == counter.get_total_flops()
    assert (expected.adaptations, expected.gradients) == (1, len(window.inner))


def test_a_supernet_and_training_judge_as_the_problem_does() -> None:
    problem = Builder(FEW)._problems[0]
    weights = SharedTrainer(problem, SharedTraining(way="untrained")).fresh().weights
    net = "conv3-pool3"
    shared = SupernetFitness(problem, weights, 3, 6)
    cut = problem.supernet().cut(weights, net)
    assert shared(net, 6) == problem.subnet(net).validation_accuracy(cut, 6, first_task(3, 6))
    trained = TrainFitness(problem, 3, 6, 2)
    assert trained(net, 6) == trained(net, 6) and len(trained._trained) == 1
    assert trained.cost(net, 6).adaptations == 6 + 2 * 2
    search = Search.of(make_strategy("random", FOUR, 4, 0), shared, 4)
    assert len(list(search.run())) == 4 and search.told.startswith("the budget is spent")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_commands_on_a_table(built: tuple[Path, NetTable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metabench.cli.table_commands.alone", lambda: None)
    monkeypatch.setattr("metabench.cli.search_commands.alone", lambda: None)
    path = tmp_path / "table.xz"
    path.write_bytes(encode(built[1]))
    told = json.loads(run("table", "query", "pool3-conv3", "--table", str(path), "--json").stdout)
    assert [one["net"] for one in told["nets"]] == ["pool3-conv3"] and told["nets"][0]["regret"] >= 0
    assert "rankings that agree" in run("table", "query", "--table", str(path)).stdout
    trace = tmp_path / "trace.csv"
    found = run(
        "search",
        "random",
        "local_search",
        "--space",
        "four",
        "--fitness",
        "table",
        "--table",
        str(path),
        "--budget",
        "3",
        "--seeds",
        "4",
        "--trace",
        str(trace),
        "--json",
    )
    told = json.loads(found.stdout)
    assert [one["entrant"] for one in told["entrants"]] == ["random", "local_search"]
    away = told["entrants"][1]["test above random"]
    regrets = {name: [one["test"] for one in told["searches"] if one["entrant"] == name] for name in ("random", "local_search")}
    pairs = list(zip(regrets["local_search"], regrets["random"], strict=True))
    # The lower regret wins.
    assert away["pairs"] == 4 and away["wins"] == sum(ours < theirs for ours, theirs in pairs)
    assert away["losses"] == sum(ours > theirs for ours, theirs in pairs)
    assert len(trace.read_text().splitlines()) == 1 + 2 * 4 * 3
    for arguments, said in (
        (
            ("search", "--fitness", "table", "--table", str(path)),
            "the table is of the space 'four', and 'tiny' is searched",
        ),
        (("search", "--fitness", "supernet"), "needs --weights"),
        (("search", "random", "random", "--fitness", "table"), "'random' is named twice"),
        (("search", "--fitness", "tabel"), "unknown fitness 'tabel': did you mean 'table'?"),
        (("table", "query", "--table", str(trace)), "holds no table of nets"),
        (("table", "build", "--shards", str(tmp_path), "--part", "3/2"), "part '3/2': expected two whole numbers"),
    ):
        assert said in str(run(*arguments).exception)


def test_a_table_of_other_settings_is_not_checked_but_refused(
    built: tuple[Path, NetTable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metabench.cli.table_commands.alone", lambda: None)
    path, settings = tmp_path / "table.xz", tmp_path / "settings.yaml"
    path.write_bytes(encode(built[1]))
    settings.write_text(
        "space: four\nway: meta\nmethod: unrolled\nseeds: [0, 1]\nouter_steps: 2\ninner_steps: 3\n"
        "tasks: [6, 8]\nsteps: [1, 3]\noptions: {ways: 3, queries: 2, tasks: 2}\n"
    )
    assert read_settings(settings) == FEW
    same = run(
        "table",
        "check",
        "--table",
        str(path),
        "--settings",
        str(settings),
        "--count",
        "1",
    )
    assert "conv3-conv3, seed 0: the same" in same.stdout
    settings.write_text(settings.read_text().replace("outer_steps: 2", "outer_steps: 5"))
    refused = run("table", "check", "--table", str(path), "--settings", str(settings), "--count", "1")
    assert "the table was made with outer_steps 2, and now it is 5: make it anew" in str(refused.exception)
    settings.write_text("outer_step: 2\n")
    with pytest.raises(MetabenchError, match="did you mean 'outer_steps'"):
        read_settings(settings)
    for text, words in (
        ("outer_steps: many", "key 'outer_steps' of .*: expected int, got 'many'"),
        ("seeds: 3", "key 'seeds' of .*: expected a list of whole numbers, got 3"),
        ("tasks: [300]", "expected two positive numbers"),
        ("joint: {batch: 0}", "option 'batch' of 'joint' in .*: must be at least 1"),
    ):
        settings.write_text(text)
        with pytest.raises(MetabenchError, match=words):
            read_settings(settings)
    with pytest.raises(MetabenchError, match="expected ascending numbers, 5 among them"):
        TableSettings(steps=(1, 2))
    assert cached_data("glyphs").train


@pytest.mark.parametrize(("exact", "adaptation"), [(True, "start"), (True, "head"), (False, "start")])
def test_tasks_side_by_side_give_the_mean_of_their_hypergradients(exact: bool, adaptation: str) -> None:
    problem = make_problem("few_shot", size="subnet", dtype=torch.float64, tasks=3, adaptation=adaptation)
    meta, windows = problem.initial(), next(iter(problem.windows()))
    method = "unrolled" if exact else "first_order"
    one_by_one = tree.mean([call(method, *problem.entered(one, None), meta, one).meta for one in windows])
    together = side_by_side(problem, meta, windows, exact=exact)
    assert relative_error(together, one_by_one) < 1e-12


def test_flops_of_training_are_those_that_torch_counts() -> None:
    problem = make_problem("few_shot", size="subnet", tasks=2)
    window = next(iter(problem.windows()))[0]
    with FlopCounterMode(display=False) as counter:
        through_graph(*problem.entered(window, None), problem.initial(), window)
    assert of_training(problem, 7) == counter.get_total_flops() * 2 * 7


def test_a_net_of_a_domains_own_is_chosen_and_judged_on_other_tasks() -> None:
    """Where all nets are alike, the best of 125 looks better where it was chosen, and is not on other tasks."""
    table = made_table(tasks=400)
    stream = np.random.Generator(np.random.PCG64(1))
    alike = stream.binomial(25, 0.6, table.right[TEST].shape).astype(np.uint8)
    noise = dataclasses.replace(table, right={**table.right, TEST: alike}, domains={TEST: ("one", "two") * 200})
    (first, second) = of_domains(noise)
    assert (first.domain, first.tasks, second.tasks) == ("one", 200, 200)
    assert abs(first.gain) < 2 * first.half and abs(second.gain) < 2 * second.half
    accuracy = 100 * alike.mean((1, 2))[:, ::2].mean(1) / 25
    assert accuracy.max() - accuracy.mean() > first.half
    # One net that is good in one domain alone.
    good = alike.copy()
    good[7, :, :, 1::2] = 25
    good[8] = 22
    found = {one.domain: one for one in of_domains(dataclasses.replace(noise, right={**table.right, TEST: good}))}
    assert found["two"].net == table.nets[7] and found["two"].gain == pytest.approx(12)
    assert found["one"].net == table.nets[8] and found["one"].gain == 0
