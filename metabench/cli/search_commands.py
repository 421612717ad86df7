"""`metabench search` and `metabench supernet`: searches for architectures, and the shared weights that may judge their nets."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metabench.cli.application import Json, Plugins, app
from metabench.cli.output import print_json, print_table
from metabench.cli.progress import progress_display
from metabench.cli.table_commands import alone, read_table
from metabench.core.errors import MetabenchError, unknown

if TYPE_CHECKING:
    from metabench.problems.few_shot import FewShot
    from metabench.search.study import Outcome

NONE: list[Path] = []
ENTRANTS = ["random", "random+ridge", "evolution", "evolution+ridge"]
Space = Annotated[str, typer.Option(help="The space of architectures: tiny, small, large or darts.")]
Dataset = Annotated[str, typer.Option(help="The few-shot data set of the tasks.")]


@app.command("search")
def search_command(
    entrants: Annotated[
        list[str], typer.Argument(help="Strategies, each with a predictor if one follows a plus: 'evolution+ridge'.")
    ] = ENTRANTS,
    fitness: Annotated[
        str, typer.Option(help="table: look nets up; supernet: adapt shared weights; train: train each net.")
    ] = "train",
    budget: Annotated[int, typer.Option(min=1, help="Nets that a search may evaluate.")] = 25,
    tasks: Annotated[
        int,
        typer.Option(min=0, help="Validation tasks that judge a net; 0: as many as there are, 100 without a table."),
    ] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each, numbered from 0.")] = 3,
    space: Space = "tiny",
    dataset: Dataset = "glyphs",
    table: Annotated[Path | None, typer.Option(help="A file of a table; by default the one that ships.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Shared weights, of `metabench supernet`.")] = None,
    net_way: Annotated[str, typer.Option(help="How a net is trained from nothing: joint, over all classes, or meta, by MAML.")] = "joint",
    net_steps: Annotated[int, typer.Option(min=1, help="Steps or outer steps of that.")] = 300,
    trace: Annotated[Path | None, typer.Option(help="Write every evaluation to this CSV file.")] = None,
    plugin: Plugins = NONE,
    as_json: Json = False,
) -> None:
    """Search for architectures by several strategies at an equal budget, seed by seed, each against random search.

    Nets are chosen on validation tasks; test tasks are touched once, after the choice.
    """
    from metabench.models.spaces import space as space_named
    from metabench.results.searches import FITNESSES, SUPERNET, TABLE
    from metabench.search.fitness import SupernetFitness, TableFitness, TrainFitness
    from metabench.search.study import Entrant, searched
    from metabench.search.table_builder import JOINT
    from metabench.search.table_builder import WAYS as TABLE_WAYS
    from metabench.tasks.joint import Joint

    if fitness not in FITNESSES:
        raise unknown("fitness", fitness, FITNESSES)
    of, known = space_named(space), [Entrant.read(one) for one in entrants]
    if repeated := [one.name for one in known if known.count(one) > 1]:
        raise MetabenchError(f"'{repeated[0]}' is named twice")
    alone()
    if fitness == TABLE:
        stored = read_table(table)
        for name, asked in (("space", space), ("dataset", dataset)):
            if stored.about[name] != asked:
                raise MetabenchError(
                    f"the table is of the {name} '{stored.about[name]}', and '{asked}' is searched: name it with --{name}"
                )
        made: Any = lambda seed: TableFitness(stored, of, seed, tasks, training_seed=seed)  # noqa: E731
        test: Any = lambda judge, net: judge.regret(net)  # noqa: E731
    else:
        problem = _problem(space, dataset)
        if fitness == SUPERNET:
            shared = _weights(problem, weights)
            made = lambda seed: SupernetFitness(problem, shared, seed, tasks or 100)  # noqa: E731
        else:
            trained: dict[str, Any] = {}
            if net_way not in TABLE_WAYS:
                raise unknown("way to train a net", net_way, TABLE_WAYS)
            training = Joint(net_steps) if net_way == JOINT else net_steps
            made = lambda seed: TrainFitness(problem, seed, tasks or 100, training, trained)  # noqa: E731
        test = _tested
    outcomes: list[Outcome] = []
    with progress_display("search") as progress:
        for seed in range(seeds):
            for number, one in enumerate(known):
                progress("searches", seed * len(known) + number, seeds * len(known))
                judge = made(seed)
                outcomes.append(
                    searched(one, of, budget, seed, judge, lambda net, judge=judge: test(judge, net), plugin)
                )
    if trace is not None:
        _write_trace(trace, outcomes)
    _print(outcomes, fitness == TABLE, as_json)


@app.command("supernet")
def supernet_command(
    out: Annotated[Path, typer.Argument(help="The file of the weights; a run that was killed goes on from it.")],
    way: Annotated[str, typer.Option(help="meta, joint, joint_meta or untrained.")] = "meta",
    method: Annotated[str, typer.Option(help="Whose hypergradients move the weights.")] = "unrolled",
    outer_steps: Annotated[
        int, typer.Option(min=1, help="Of meta-training; each uses every operation of every layer once.")
    ] = 150,
    joint_steps: Annotated[int, typer.Option(min=1, help="Of joint training.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, tasks and paths.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps from one writing of the file to the next.")] = 25,
    space: Space = "tiny",
    dataset: Dataset = "glyphs",
) -> None:
    """Train the shared weights of a supernet, by any method of the suite."""
    from metabench.search.shared_weights import SharedTrainer, SharedTraining, identity_of, read, save
    from metabench.search.table_builder import numbered_answers
    from metabench.tasks.joint import Joint

    alone()
    problem = _problem(space, dataset, seed)
    joint = Joint(joint_steps, batch=64, learning_rate=0.01)
    training = SharedTraining(way, outer_steps, problem.setting.options.outer_learning_rate, joint)
    identity, total = identity_of(problem, dataset, training, method), sum(steps for _, steps in training.phases)
    last = read(out, identity, problem.setting.device)
    with progress_display("supernet") as progress:
        for shared in SharedTrainer(problem, training, numbered_answers(method, seed)).run(last):
            done = training.done(shared)
            progress("steps", done, total)
            if done % every == 0 or done == total:
                save(out, shared, identity, finished=done == total)
    print(f"{out}: {shared.adaptations:,} inner runs, {shared.gradients:,} gradients", file=sys.stderr)


def _problem(space: str, dataset: str, seed: int = 0) -> FewShot:
    """Return `few_shot` with its defaults, for nets of a space."""
    from metabench.core.lazy import torch
    from metabench.core.options import build
    from metabench.core.problem import Setting
    from metabench.data import load
    from metabench.models.spaces import space as space_named
    from metabench.problems.few_shot import SUBNET, FewShot

    of = space_named(space)
    first = of.text([0] * len(of.choices))
    options = build(FewShot.card.options, {"space": space, "architecture": first}, "problem 'few_shot'")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = FewShot.card.inner_steps
    return FewShot(Setting(SUBNET, options, steps, seed, device, torch.float32, load(dataset)))


def _weights(problem: FewShot, path: Path | None) -> Any:
    from metabench.search.shared_weights import read_weights

    if path is None:
        raise MetabenchError("--fitness supernet needs --weights: train them with `metabench supernet FILE`")
    found = read_weights(path, problem.setting.device)
    problem.supernet().cut(found, problem.setting.options.architecture)  # refuses those of another space
    return found


def _tested(judge: Any, net: str) -> float:
    """Return the accuracy on test tasks of a net as the search saw it: adapted from its weights."""
    return float(judge.problem.subnet(net).test_accuracies(judge.weights_of(net)).mean())


def _write_trace(path: Path, outcomes: Sequence[Outcome]) -> None:
    from metabench.core.atomic import write_text_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("number", "encoding", "tasks", "fitness", "spent", "best")
    writer.writerow(("entrant", "seed", *names, "adaptations", "gradients", "flops"))
    for one in outcomes:
        for line in one.lines:
            cost = line.cost
            row = (getattr(line, name) for name in names)
            writer.writerow((one.entrant, one.seed, *row, cost.adaptations, cost.gradients, cost.flops))
    write_text_atomically(path, text.getvalue())


def _print(outcomes: Sequence[Outcome], regrets: bool, as_json: bool) -> None:
    """Print what strategies came to; with `regrets` the test is a regret, of which lower wins."""
    import dataclasses

    from metabench.search.study import paired

    by_entrant: dict[str, list[Outcome]] = {}
    for one in outcomes:
        by_entrant.setdefault(one.entrant, []).append(one)
    baseline = by_entrant.get("random")
    rows, told = [], []
    # Fewer than three pairs have no interval, and JSON no NaN.
    known = lambda one: {**dataclasses.asdict(one), "half": None if math.isnan(one.half) else one.half}  # noqa: E731
    for name, mine in by_entrant.items():
        against = {
            key: paired([getattr(one, key) for one in mine], [getattr(one, key) for one in baseline])
            for key in ("validation", "test")
            if baseline is not None and mine is not baseline
        }
        if regrets and "test" in against:
            one = against["test"]
            against["test"] = dataclasses.replace(one, wins=one.losses, losses=one.wins)
        means = {key: sum(getattr(one, key) for one in mine) / len(mine) for key in ("validation", "test")}
        told.append(
            {"entrant": name, "searches": len(mine), **means}
            | {f"{key} above random": known(one) for key, one in against.items()}
        )
        shown = [
            f"{one.mean:+.2f}{'' if math.isnan(one.half) else f' ± {one.half:.2f}'}, {one.wins} won, {one.losses} lost"
            if (one := against.get(key))
            else "-"
            for key in ("validation", "test")
        ]
        chosen = max({one.chosen for one in mine}, key=[one.chosen for one in mine].count)
        evaluations = sum(len(one.lines) for one in mine) / len(mine)
        rows.append(
            (
                name,
                f"{evaluations:.0f}",
                f"{means['validation']:.2f}",
                shown[0],
                f"{means['test']:.2f}",
                shown[1],
                chosen,
            )
        )
    if as_json:
        print_json({"entrants": told, "searches": [dataclasses.asdict(one) for one in outcomes]})
        return
    test = "test regret (points)" if regrets else "test accuracy (%)"
    print_table(
        f"searches, {len(next(iter(by_entrant.values())))} of each",
        ("strategy", "evaluations", "validation (%)", "above random", test, "above random ", "chosen most often"),
        rows,
        right=("evaluations", "validation (%)", test),
    )
    for reason in dict.fromkeys(one.told for one in outcomes):
        print(reason)
