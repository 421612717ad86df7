"""A suite becomes cells: every combination once, in order, with all names checked."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.problems import problem
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import Plan, load_suite, plan

ROOT = Path(__file__).parents[2]
SUITE: dict[str, Any] = {
    "name": "x",
    "experiments": {"toy": {"problem": "toy_1d", "inner_steps": [3], "outer_steps": 2, "methods": ["t1t2"]}},
}

Planned = Callable[..., Plan]


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        ({}, "suite 'x' has no experiments: 'metabench list problems' shows what one may be of"),
        ({"a": {"problem": "toy_1d", "methods": []}}, "experiment 'a': no methods: expected at least one of none, unrolled, "),
    ],
)
def test_a_suite_without_cells_is_refused(experiments: dict[str, object], message: str) -> None:
    with pytest.raises(MetabenchError, match=message):
        plan(load_suite({"name": "x", "experiments": experiments}))


def test_every_combination_is_a_cell_in_the_order_of_the_suite(planned: Planned) -> None:
    found = planned(
        problem="label_noise",
        datasets=["fashion_mnist_10k", "digits"],
        sizes=["mlp64", "mlp256"],
        options={"rate": [0.2, 0.4], "noise": "uniform", "train": 1000, "validation": 400},
        inner_steps=[1, 2],
        methods=["none", {"evograd": {"copies": [2, 4], "sigma": [0.01, 0.1]}}],
    )
    combinations = [
        (
            c.dataset,
            c.size,
            c.problem_options["rate"],
            c.inner_steps,
            c.method,
            *(c.method_options.get(o) for o in ("copies", "sigma")),
        )
        for c in found.cells
    ]
    assert combinations == [
        (dataset, size, rate, steps, *method)
        for dataset in ("fashion_mnist_10k", "digits")
        for size in ("mlp64", "mlp256")
        for rate in (0.2, 0.4)
        for steps in (1, 2)
        for method in (
            ("none", None, None),
            *(("evograd", copies, sigma) for copies in (2, 4) for sigma in (0.01, 0.1)),
        )
    ]
    assert found.rows == 3 * len(found.cells)
    assert {cell.problem_options["noise"] for cell in found.cells} == {"uniform"}


def test_what_an_experiment_leaves_out_comes_from_the_problem_and_the_suite(planned: Planned) -> None:
    card = problem("label_noise").card
    cell = planned(problem="label_noise", inner_steps=[], outer_steps=None).cells[0]
    assert (cell.dataset, cell.size) == (card.datasets[0], next(iter(card.named_sizes())))
    assert (cell.inner_steps, cell.outer_steps) == (card.inner_steps, card.outer_steps)
    assert (cell.seeds, cell.device, cell.dtype, cell.limit_bytes) == ([0, 1, 2], "cpu", "float32", 4 * 2**30)
    assert cell.problem_options == dataclasses.asdict(card.options())
    assert planned(seeds=[7]).cells[0].seeds == [7]


def test_a_declared_device_stands_in_the_spec_and_makes_no_other_cell() -> None:
    experiments = {"toy": {"problem": "toy_1d", "methods": ["t1t2"]}}
    bare, declared = (
        plan(load_suite({"name": "x", "experiments": experiments} | more)).cells[0]
        for more in ({}, {"device_memory": "24GiB"})
    )
    assert (bare.device_bytes, declared.device_bytes) == (0, 24 * 2**30)
    assert bare.hash == declared.hash


def test_curves_are_kept_of_outer_steps_that_there_are(planned: Planned) -> None:
    cell = planned(curve=[5, 0, 5], outer_steps=5).cells[0]
    assert cell.curve == [0, 5] and cell.hash == planned(outer_steps=5).cells[0].hash
    with pytest.raises(MetabenchError, match="experiment 'toy': 'curve' names outer step 6, and training ends after 5"):
        planned(curve=[6], outer_steps=5)
    with pytest.raises(MetabenchError, match="'curve' has no meaning where kind is 'cost'"):
        planned(kind="cost", outer_steps=None, curve=[0])


def test_a_cost_experiment_trains_nothing(planned: Planned) -> None:
    assert planned(kind="cost", outer_steps=None).cells[0].outer_steps == 0
    with pytest.raises(MetabenchError, match="experiment 'toy': 'outer_steps' has no meaning where kind is 'cost'"):
        planned(kind="cost", outer_steps=5)


def test_a_cell_survives_its_spec(planned: Planned) -> None:
    for cell in planned(methods=["t1t2", {"evograd": {"copies": 5}}]).cells:
        assert Cell.from_json(cell.to_json(), "here") == cell


def test_rows_lie_in_readable_folders(planned: Planned) -> None:
    found = planned()
    (cell,) = found.cells
    assert found.row_file(cell) == Path(f"results/trial/cells/toy_1d/analytic/scalar/t1t2-{cell.hash}.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": "toy1d"}, "unknown problem 'toy1d': did you mean 'toy_1d'?"),
        ({"methods": ["t1t3"]}, "unknown method 't1t3': did you mean 't1t2'?"),
        ({"datasets": ["analytical"]}, "unknown data set 'analytical': did you mean 'analytic'?"),
        ({"datasets": ["digits"]}, "unknown data set of problem 'toy_1d' 'digits': known: analytic"),
        ({"sizes": ["scaler"]}, "unknown size of problem 'toy_1d' 'scaler': did you mean 'scalar'?"),
        ({"sizes": ["mlp64"]}, "unknown size of problem 'toy_1d' 'mlp64': known: scalar"),
        (
            {"options": {"learning_rat": 1}},
            "unknown option of problem 'toy_1d' 'learning_rat': did you mean 'learning_rate'?",
        ),
        ({"options": {"learning_rate": 0}}, "option 'learning_rate' of problem 'toy_1d': must be above 0"),
        (
            {"options": {"learning_rate": "fast"}},
            "option 'learning_rate' of problem 'toy_1d': expected a number, got 'fast'",
        ),
        ({"methods": [{"evograd": {"copy": 2}}]}, "unknown option of method 'evograd' 'copy': did you mean 'copies'?"),
        (
            {"methods": [{"evograd": {"copies": [2, 1]}}]},
            "option 'copies' of method 'evograd': must be at least 2, got 1",
        ),
        ({"methods": [{"evograd": {"copies": 2.5}}]}, "option 'copies' of method 'evograd': expected int, got 2.5"),
        (
            {"methods": [{"evograd": {"copies": []}}]},
            "option 'copies' of method 'evograd': an empty list sweeps nothing",
        ),
        ({"methods": [{"t1t2": {}, "none": {}}]}, "method: expected a name or {name: {option: value}}"),
        ({"kind": "qualty"}, "unknown kind of experiment 'qualty': did you mean 'quality'?"),
        ({"kind": ["cost"]}, "kind of experiment: expected a name or {name: {option: value}}, got ['cost']"),
        ({"kind": {"cost": {"a": 1}}, "outer_steps": None}, "unknown option of kind of experiment 'cost' 'a'"),
        ({"methods": [3]}, "method: expected a name or {name: {option: value}}, got 3"),
        ({"methods": [{"evograd": 3}]}, "method: expected a name or {name: {option: value}}, got {'evograd': 3}"),
    ],
)
def test_a_wrong_name_or_option_is_refused(planned: Planned, changes: dict[str, object], message: str) -> None:
    with pytest.raises(MetabenchError) as error:
        planned(**changes)
    assert str(error.value).startswith("experiment 'toy': ")
    assert message in str(error.value)


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(MetabenchError, match="unknown baseline method 'unroled': did you mean 'unrolled'"):
        plan(load_suite(SUITE | {"baseline": "unroled"}))


def test_a_baseline_that_is_not_run_is_refused() -> None:
    toy = SUITE["experiments"]["toy"]
    two = SUITE | {"experiments": {"toy": toy, "more": toy | {"inner_steps": [4], "methods": ["none", "t1t2"]}}}
    message = r"no experiment runs the baseline 'mixflow' \('toy', 'more'\): add it to one, or choose the baseline among t1t2, none$"
    with pytest.raises(MetabenchError, match=message):
        plan(load_suite(two | {"baseline": "mixflow"}))
    assert plan(load_suite(two)).cells, "nobody chose the default"
    assert plan(load_suite(two | {"baseline": "none"})).cells, "one experiment has it"


def test_a_method_may_be_written_with_and_without_options(planned: Planned) -> None:
    plain, empty, none = (planned(methods=[entry]).cells for entry in ("evograd", {"evograd": {}}, {"evograd": None}))
    assert plain == empty == none


@pytest.mark.parametrize(
    "methods", [["t1t2", "t1t2"], ["evograd", {"evograd": {"copies": 2}}], [{"evograd": {"sigma": [0.01, 1e-2]}}]]
)
def test_a_cell_described_twice_is_refused(planned: Planned, methods: list[object]) -> None:
    with pytest.raises(
        MetabenchError, match=r"duplicate cell toy_1d/analytic/scalar/.*, described by experiment 'toy' twice"
    ):
        planned(methods=methods)


def test_a_cell_in_two_experiments_names_both() -> None:
    experiment = {"problem": "toy_1d", "methods": ["t1t2"]}
    with pytest.raises(MetabenchError, match="described by experiments 'first' and 'second'"):
        plan(load_suite({"name": "x", "experiments": {"first": experiment, "second": experiment | {"seeds": [8]}}}))


def test_a_plugin_adds_its_methods(planned: Planned, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from metabench.core import Cost, Target, method\n"
        "@method(title='t', target=Target.NONE, exact=True, cost=Cost(), citation='')\n"
        "def mine(problem, state, meta, window, options, generator): ...\n"
    )
    suite = {"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": ["mine"]}}}
    (cell,) = plan(load_suite(suite | {"plugins": [str(plugin)]})).cells
    assert (cell.method, cell.plugins) == ("mine", [str(plugin)])
    with pytest.raises(MetabenchError, match="unknown method 'mine'"):
        plan(load_suite(suite))
    with pytest.raises(MetabenchError, match="no such file"):
        plan(load_suite(suite | {"plugins": [str(tmp_path / "other.py")]}))


def test_a_figure_that_is_not_there_is_refused(tmp_path: Path) -> None:
    suite = {"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": ["unrolled"]}}}
    figure = tmp_path / "mine.py"
    with pytest.raises(MetabenchError, match=r"^figure '.*mine\.py': no such file$"):
        plan(load_suite(suite | {"figures": [str(figure)]}))
    figure.touch()
    assert plan(load_suite(suite | {"figures": [str(figure)]})).suite.figures == [str(figure)]


@pytest.mark.parametrize(
    "path", [ROOT / "config/config.yaml", *(ROOT / "config/suites").glob("*.yaml")], ids=lambda path: path.name
)
def test_the_suites_that_ship_can_be_planned(path: Path) -> None:
    found = plan(load_suite(path))
    assert found.cells
    assert found.suite.title


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from metabench.suite.plan.code_hash import code_hash; from metabench.suite.plan.plan import load_suite, plan\n"
        "assert all(code_hash(cell) for cell in plan(load_suite('config/config.yaml')).cells)\n"
        "print([name for name in ('torch', 'pandas', 'pyarrow', 'snakemake') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_suite_that_takes_more_examples_than_there_are_is_refused(planned: Planned) -> None:
    with pytest.raises(MetabenchError, match="takes 9,000 training examples, data set 'digits' has 1,437"):
        planned(problem="label_noise", datasets=["digits"], methods=["none"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_steps": 0}, "spec.json: 'inner_steps' is 0, expected a whole number, 1 or more"),
        ({"inner_steps": 2.5}, "spec.json: 'inner_steps' is 2.5, expected a whole number, 1 or more"),
        ({"outer_steps": -1}, "spec.json: 'outer_steps' is -1, expected a whole number, 0 or more"),
        ({"threads": 0}, "spec.json: 'threads' is 0, expected a whole number, 1 or more"),
        ({"replicate": 2}, "spec.json: 'replicate' is 2, expected a whole number, 0 to 1"),
        ({"seeds": []}, "spec.json: 'seeds' is [], expected a list of one or more"),
        ({"seeds": 3}, "spec.json: 'seeds' is 3, expected a list of one or more"),
        ({"seeds": [0, -1]}, "spec.json: a seed is -1, expected a whole number, 0 to 9223372036854775807"),
        ({"seeds": [2**63]}, "spec.json: a seed is 9223372036854775808, expected a whole number, 0 to 9223372036854775807"),
        ({"seeds": [True]}, "spec.json: a seed is True, expected a whole number"),
    ],
)
def test_a_number_of_a_hand_written_cell_that_no_plan_has_is_refused(
    planned: Planned, changes: dict[str, object], message: str
) -> None:
    spec = json.dumps(dataclasses.asdict(planned().cells[0]) | changes)
    with pytest.raises(MetabenchError, match=re.escape(message)):
        Cell.from_json(spec, "spec.json")


def test_the_largest_seed_is_accepted(planned: Planned) -> None:
    cell = planned(seeds=[2**63 - 1]).cells[0]
    assert Cell.from_json(cell.to_json(), "spec.json") == cell
