"""Trained optimisers: kept beside a cell's rows, exported, used as `torch.optim.Optimizer`, and begun with."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_choice import KERNELS
from typer.testing import CliRunner

import metabench
from metabench.cli.app import app
from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.learned.declared import LEARNED_OPTIMISERS, read_optimiser
from metabench.learned.exported import Exported, shipped
from metabench.learned.torch_optimiser import Factory
from metabench.results.store import write_rows
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import _modules, code_hash
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell
from metabench.training import kept

OPTIONS = {"optimiser": "lstm, hidden 3", "horizon": 6, "tasks": 4, "test_tasks": 8}


def cell(
    method: str = "unrolled", problem: str = "learned_quadratics", seeds: tuple[int, ...] = (0, 1), **options: Any
) -> Cell:
    experiment = {"problem": problem, "methods": [method], "inner_steps": [3], "outer_steps": 3}
    if problem == "learned_quadratics":
        experiment |= {"sizes": ["d5"], "options": OPTIONS | options}
    measure = {"error_windows": 0, "time_repeats": 1}
    suite = {"name": "x", "seeds": list(seeds), "kernels": KERNELS, "rounds": 0, "aa": False, "measure": measure}
    return plan(load_suite(suite | {"experiments": {"a": experiment}})).cells[0]


def run(one: Cell, out: Path | None = None) -> list[dict[str, Any]]:
    rows = list(run_cell(one, lambda *told: None, out))
    if out:
        write_rows(out, rows)
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The row file of a cell that trained an optimiser with two seeds."""
    out = tmp_path_factory.mktemp("trained") / "rows.parquet"
    rows = run(cell(), out)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    return out


def export(rows: Path, out: Path, *more: str) -> str:
    """Return what the command says; raise its error."""
    done = CliRunner().invoke(app, ["export", str(rows), "--out", str(out), *more])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture
def file(trained: Path, tmp_path: Path) -> Path:
    """A trained optimiser, of seed 1."""
    export(trained, tmp_path / "lstm.pt", "--seed", "1")
    return tmp_path / "lstm.pt"


def drawn(text: str, dtype: torch.dtype = torch.float64, **groups: str) -> Exported:
    """Return an optimiser with its initial weights, which need not be good."""
    texts = groups or {"": text}
    meta = {
        f"{group}.{name}".strip("."): leaf.to(dtype)
        for group, one in texts.items()
        for name, leaf in read_optimiser(one).draw(generator(0, group)).items()
    }
    return Exported(texts, meta, {}, "drawn")


def parameters(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype))
        for shape in ((3, 4), (4,), (2, 2, 2))
    ]


def loss_of(leaves: Any) -> torch.Tensor:
    return sum((number + 1) * (leaf - 1).square().sum() + leaf.sin().sum() for number, leaf in enumerate(leaves))


def stepped(optimiser: torch.optim.Optimizer, leaves: list[torch.nn.Parameter], steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(leaves).backward()
        optimiser.step()


def inner_run(text: str, meta: tree.Tree, steps: int) -> list[torch.Tensor]:
    """Return the parameters after steps of the inner update itself."""
    update = read_optimiser(text).make()
    params = {name: leaf.detach() for name, leaf in zip("abc", parameters(), strict=True)}
    state = update.init(params)
    for _ in range(steps):
        leaves = tree.leaves_for_grad(params)
        gradients = dict(zip(leaves, torch.autograd.grad(loss_of(leaves.values()), list(leaves.values())), strict=True))
        with torch.no_grad():
            params, state = update.update(gradients, params, state, meta)
    return list(params.values())


@pytest.mark.parametrize("text", list(LEARNED_OPTIMISERS))
def test_it_steps_as_the_inner_update_does_and_goes_on_from_its_state(text: str) -> None:
    exported = drawn(text)
    leaves = parameters()
    stepped(Factory(exported)(leaves), leaves, 7)
    first = Factory(exported)(leaves := parameters())
    stepped(first, leaves, 7)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    resumed = Factory(exported)(leaves)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    stepped(resumed, leaves, 13)
    for leaf, expected in zip(leaves, inner_run(text, exported.meta, 20), strict=True):
        torch.testing.assert_close(leaf.detach(), expected, rtol=1e-12, atol=1e-12)
    # Without its state it goes elsewhere: unless it has none, the test above would see a state that is lost.
    if any(read_optimiser(text).make().init({"w": leaves[0].detach()}).values()) and "sgd" not in text:
        forgetful = parameters()
        for steps in (7, 13):
            stepped(Factory(exported)(forgetful), forgetful, steps)
        assert not torch.allclose(forgetful[0], leaves[0], rtol=1e-9, atol=0)


def test_parameter_groups_have_their_own_factor_and_may_come_later() -> None:
    exported = drawn("lstm, hidden 3")
    leaves = parameters()
    optimiser = Factory(exported)([{"params": leaves[:1]}, {"params": leaves[1:2], "lr": 0.5}])
    before = [leaf.detach().clone() for leaf in leaves]
    stepped(optimiser, leaves, 1)
    whole = inner_run("lstm, hidden 3", exported.meta, 1)
    torch.testing.assert_close(leaves[0].detach(), whole[0])
    torch.testing.assert_close(leaves[1].detach(), (before[1] + whole[1]) / 2)
    assert torch.equal(leaves[2], before[2])
    optimiser.add_param_group({"params": leaves[2:]})
    stepped(optimiser, leaves, 1)
    torch.testing.assert_close(leaves[2].detach(), whole[2])


def test_a_scheduler_scales_updates_and_a_parameter_without_a_gradient_stays() -> None:
    exported = drawn("lstm, hidden 3")
    leaves = parameters()
    before = leaves[2].detach().clone()
    optimiser = Factory(exported)(leaves)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=0.0)
    optimiser.step(lambda: loss_of(leaves[:2]).backward())
    torch.testing.assert_close(leaves[0].detach(), inner_run("lstm, hidden 3", exported.meta, 1)[0])
    assert torch.equal(leaves[2], before)
    schedule.step()
    still = [leaf.detach().clone() for leaf in leaves]
    stepped(optimiser, leaves, 1)
    assert all(torch.equal(leaf, one) for leaf, one in zip(leaves, still, strict=True))


def test_each_group_of_a_trained_optimiser_updates_its_own() -> None:
    exported = drawn("", conv="lstm, hidden 3", dense="sgd, rate 0.1")
    leaves = parameters()
    before = leaves[1].detach().clone()
    stepped(
        Factory(exported)([{"params": leaves[:1], "group": "conv"}, {"params": leaves[1:], "group": "dense"}]),
        leaves,
        1,
    )
    torch.testing.assert_close(leaves[0].detach(), inner_run("lstm, hidden 3", exported.of_group("conv"), 1)[0])
    torch.testing.assert_close(leaves[1].detach(), before - 0.1 * (4 * (before - 1) + before.cos()))
    with pytest.raises(MetabenchError, match="an optimiser for each of conv, dense: name the 'group'"):
        Factory(exported)(leaves)
    with pytest.raises(MetabenchError, match="unknown group of 'drawn' 'cov': did you mean 'conv'"):
        Factory(exported)([{"params": leaves, "group": "cov"}])


def test_parameters_of_another_dtype_and_other_states_are_refused(file: Path) -> None:
    with pytest.raises(
        MetabenchError, match=r"parameter 0 is torch.float64, and '.*lstm.pt' was exported for torch.float32"
    ):
        metabench.learned.load(file)(parameters())
    leaves = parameters()
    stepped(metabench.learned.load(file, dtype=torch.float64)(leaves), leaves, 1)
    one, other = Factory(drawn("lstm"))(leaves), Factory(drawn("sgd"))(leaves)
    with pytest.raises(MetabenchError, match="the state is of 'sgd, "):
        one.load_state_dict(other.state_dict())
    sparse = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    sparse.grad = torch.ones(3, dtype=torch.float64).to_sparse()
    with pytest.raises(MetabenchError, match="gradient of parameter 0 is sparse"):
        Factory(drawn("sgd"))([sparse]).step()


def test_an_exported_file_says_what_it_is(file: Path, trained: Path, tmp_path: Path) -> None:
    values = torch.load(file, weights_only=True)
    card = values["card"]
    assert (
        values["optimisers"] == {"": "lstm, hidden 3"} and card["seed"] == 1 and card["problem_options"]["horizon"] == 6
    )
    assert {"problem", "method", "outer_steps", "certificate", "git_commit", "area under the loss curve"} <= set(card)
    assert "seed " in export(trained, tmp_path / "other.pt")


def test_what_is_exported_is_what_was_tested(file: Path) -> None:
    """Judged as it is, it gives the numbers of the row that trained it."""
    (_, row), _ = run(cell()), None
    (judged,) = run(cell("none", seeds=(1,), start=str(file)))
    assert judged["status"] == "ok" and judged["metrics"] == row["metrics"]
    (drawn_anew,) = run(cell("none", seeds=(1,)))
    assert drawn_anew["metrics"] != row["metrics"]


def test_a_cell_depends_on_the_file_that_it_begins_with(file: Path) -> None:
    one, before = cell("none", start=str(file)), code_hash(cell("none", start=str(file)))
    assert code_hash(one) == before != code_hash(cell("none"))
    file.write_bytes(file.read_bytes() + b" ")
    assert code_hash(one) != before
    assert "metabench.learned.optimisers.lstm" in _modules(one)


def test_a_start_that_does_not_fit_is_refused(file: Path) -> None:
    with pytest.raises(
        MetabenchError,
        match=r"option 'start' .* 'lstm.ptt' does not exist|trained optimiser '.*lstm.ptt' does not exist",
    ):
        cell(start=f"{file}t")
    (row,) = run(cell(start=str(file), optimiser="lstm, hidden 4", seeds=(0,)))
    assert (
        row["status"] == "error"
        and "is 'lstm, hidden 3', and the optimiser that is learned is 'lstm, hidden 4'" in row["message"]
    )


def damaged(file: Path, change: str) -> Path:
    """Return a file with something wrong in it."""
    values = torch.load(file, weights_only=True)
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-2000])
    elif change == "text":
        file.write_text("weights")
    elif change == "pickle":
        torch.save(values | {"card": {"run": re.compile("x")}}, file)
    else:
        torch.save(values | eval(change), file)
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cut", "is cut short, or not a file that"),
        ("text", "and is not read|not a file that"),
        ("pickle", "holds something else than tensors, numbers and texts"),
        ("{'version': 2}", "is of version 2, expected 1: export it again"),
        ("{'format': 'x'}", "is not a file that `metabench export` wrote"),
        ("{'optimisers': {'': 'lstmm'}}", "unknown learned optimiser 'lstmm': did you mean 'lstm'"),
        ("{'optimisers': {'': 'lstm, hidden 4'}}", "has the meta-parameter '.*' of shape"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_a_sentence(change: str, words: str, file: Path) -> None:
    with pytest.raises(MetabenchError, match=words) as error:
        metabench.learned.load(damaged(file, change))
    assert "\n" not in str(error.value)


def test_rows_without_meta_parameters_of_theirs_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.parquet"
    again = run(cell(), rows)
    write_rows(rows, [row | {"started_at": "2000-01-01T00:00:00+00:00"} for row in again])
    with pytest.raises(MetabenchError, match="are not those of its rows: run the cell again"):
        export(rows, tmp_path / "x.pt")
    write_rows(rows, again)
    with pytest.raises(MetabenchError, match="has no seed 5 that succeeded: known: 0, 1"):
        export(rows, tmp_path / "x.pt", "--seed", "5")
    kept.kept_file(rows).write_bytes(b"nothing")
    with pytest.raises(MetabenchError, match="holds no meta-parameters that can be read"):
        export(rows, tmp_path / "x.pt")
    kept.kept_file(rows).unlink()
    with pytest.raises(MetabenchError, match="no meta-parameters are kept beside"):
        export(rows, tmp_path / "x.pt")
    monkeypatch.setattr(kept, "MOST_BYTES", 100)
    run(cell(seeds=(0,)), rows)
    with pytest.raises(MetabenchError, match=r"take 0.0 MiB; above 4 MiB none are kept"):
        export(rows, tmp_path / "x.pt")
    run(cell(problem="toy_1d", seeds=(0,)), rows)
    with pytest.raises(MetabenchError, match="'toy_1d', in which no optimiser is learned"):
        export(rows, tmp_path / "x.pt")


def test_a_cell_that_fails_leaves_no_meta_parameters_of_an_earlier_run(tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    run(cell(seeds=(0,)), rows)
    assert kept.kept_file(rows).is_file()
    (row,) = run(cell(seeds=(0,), outer_learning_rate=1e30), rows)
    assert row["status"] != "ok" and not kept.kept_file(rows).is_file()


@pytest.mark.parametrize("name", list(shipped()))
def test_optimisers_that_ship_are_small_and_read(name: str) -> None:
    assert shipped()[name].stat().st_size < 100_000
    card = copy.deepcopy(metabench.learned.load(name).card)
    assert card["method"] and card["git_commit"]
    with pytest.raises(MetabenchError, match=f"did you mean '{name}'"):
        metabench.learned.load(f"{name}s")


def test_the_example_trains_a_readers_own_model() -> None:
    document = Path(__file__).parents[2] / "docs" / "library.md"
    pattern = r"<!-- example: learned optimiser -->\n```python\n(.*?)```"
    (example,) = re.findall(pattern, document.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(example, str(document), "exec"), names)
    # Without training it is above 1, the variance of the targets.
    assert names["loss"].item() < 0.6
