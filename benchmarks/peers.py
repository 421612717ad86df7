"""What the operations of BOAT and hippotrainer compute, beside what they are named after, and what they cost: tables.

    pip install --no-deps boat-torch==1.1.1 hippotrainer==1.0.0
    python benchmarks/peers.py                          # about two minutes on two cores
    python benchmarks/peers.py --docs docs/peers.md     # and write the page of the documentation

Ridge regression in float64: five log-penalties, two parameter tensors, SGD at rate 0.1, K = 20 steps on all data, a Hessian of condition
2.7, and an outer loss that does not use l. Each relative error is against a closed form of that problem. Operations that are methods
(`boat_*`, `hippo_*`) are called as such, the others through BOAT's own interface. Time and peak memory are those of a multilayer
perceptron 784-512-512-10 at batches of 256, K = 20, on one thread, as in benchmarks/methods.py. A library that is not installed is named,
and its rows are left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from methods import MIB, Case, Perceptron, Report
from restart import restart_with
from rich.console import Console
from rich.table import Table

from metabench.autodiff.optimisers import inner_optimiser
from metabench.autodiff.peers import tree_module
from metabench.certify.cases import Case as CertifiedCase
from metabench.certify.cases import moving
from metabench.certify.problems import Logistic
from metabench.core import InnerState, MetaRole, Metric, Problem, ProblemCard, Tree, Unsupported, Window, once, tree
from metabench.core.method import NoOptions
from metabench.core.options import build
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.measure.kernels import PORTABLE
from metabench.methods import method, methods

SEED, EXAMPLES, RATE, STEPS = 158, 20, 0.1, 20
PACKAGES = ("metabench", "torch", "boat-torch", "hippotrainer", "higher", "torchopt")


class RidgeOfFive(Problem):
    """f = |Xw - y|^2 / 2n + sum_j exp(l_j) w_j^2 / 2, F = scale |Zw - t|^2 / 2n, w in two tensors."""

    card = ProblemCard("ridge", ("analytic",), {"five": ""}, (Metric("loss", "min"),), "", NoOptions, STEPS, 1)
    roles = frozenset({MetaRole.INNER_LOSS})
    outer_optimiser = OuterOptimiser("SGD", learning_rate=0.1)

    def __init__(self, decay: float = 0.0, scale: float = 1.0, rate: float = RATE, features: int = 5) -> None:
        setting = Setting("five", NoOptions(), STEPS, 0, torch.device("cpu"), torch.float64, None)
        super().__init__(setting)
        self.optimiser = inner_optimiser("sgd", rate, decay)
        self.scale, self.decay, self.rate = scale, decay, rate
        stream = torch.Generator().manual_seed(SEED)
        drawn = functools.partial(torch.randn, generator=stream, dtype=torch.float64)
        self.x, self.z, weights = drawn(EXAMPLES, 5), drawn(EXAMPLES, 5), drawn(5)
        self.y = self.x @ weights + 0.5 * drawn(EXAMPLES)
        self.t = self.z @ weights + 0.5 * drawn(EXAMPLES)
        self.l, self.start_at = 0.3 * drawn(5) - 1, drawn(5)
        self.x, self.z, self.l, self.start_at = (
            self.x[:, :features],
            self.z[:, :features],
            self.l[:features],
            self.start_at[:features],
        )
        self.hessian = self.x.T @ self.x / EXAMPLES + torch.diag(self.l.exp())

    def initial(self) -> Tree:
        """Return l."""
        return {"l": self.l}

    def parts(self, w: torch.Tensor) -> Tree:
        """Return w in two tensors; in one dimension it is one."""
        return {"first": w[:3], "second": w[3:]} if len(w) > 1 else {"first": w}

    def inner_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
        """Return f."""
        w = torch.cat(list(params.values()))
        return (self.x @ w - self.y).square().sum() / (2 * EXAMPLES) + (meta["l"].exp() * w.square()).sum() / 2

    def outer_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
        """Return F."""
        w = torch.cat(list(params.values()))
        return self.scale * (self.z @ w - self.t).square().sum() / (2 * EXAMPLES)

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows of all data."""
        for begins in once(self.parts(self.start_at)):
            yield [self.window(STEPS, begins)]

    def window(self, steps: int, begins: Tree | None = None) -> Window:
        """Return a window of all data."""
        return Window.ending_in(({},) * steps, {}, begins)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return F."""
        return {"loss": float(self.outer_loss(params, meta, {}))}

    def after(self, steps: int) -> torch.Tensor:
        """Return w after some steps, in closed form of one step."""
        w = self.start_at
        for _ in range(steps):
            w = w - self.rate * (self.slope(w) + self.decay * w)
        return w

    def slope(self, w: torch.Tensor) -> torch.Tensor:
        """Return df/dw."""
        return self.hessian @ w - self.x.T @ self.y / EXAMPLES

    def outer_slope(self, w: torch.Tensor) -> torch.Tensor:
        """Return dF/dw."""
        return self.scale * self.z.T @ (self.z @ w - self.t) / EXAMPLES

    def pulled(self, w: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Return -(d2f/dl dw) q at w."""
        return -self.l.exp() * w * q

    def implicit(self, w: torch.Tensor, damping: float = 0.0) -> torch.Tensor:
        """Return the implicit hypergradient at w by a dense solve, damped, with the optimiser's decay in the Hessian."""
        damped = self.hessian + (self.decay + damping) * torch.eye(len(w), dtype=w.dtype)
        return self.pulled(w, torch.linalg.solve(damped, self.outer_slope(w)))

    def one_step(self, steps: int) -> torch.Tensor:
        """Return the hypergradient through the last of `steps` steps."""
        return self.pulled(self.after(steps - 1), self.rate * self.outer_slope(self.after(steps)))

    def through(self, last: int) -> torch.Tensor:
        """Return the hypergradient through the last steps of K."""
        v, total = self.outer_slope(self.after(STEPS)), torch.zeros_like(self.l)
        step = torch.eye(len(self.l), dtype=v.dtype) - self.rate * self.hessian
        for k in range(STEPS - 1, STEPS - 1 - last, -1):
            total = total + self.pulled(self.after(k), self.rate * v)
            v = step @ v
        return total

    def neumann(self, w: torch.Tensor, terms: int) -> torch.Tensor:
        """Return the truncated Neumann series at w, at the learning rate."""
        term = total = self.outer_slope(w)
        for _ in range(terms):
            term = term - self.rate * self.hessian @ term
            total = total + term
        return self.pulled(w, self.rate * total)


class Row(NamedTuple):
    """A row of the table of errors: what was called, against what, what came out, and what was seen on other data."""

    library: str
    operation: str
    against: str
    found: str
    known: str = ""


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error."""
    return float((found - expected).norm() / expected.norm())


def cosine(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the cosine."""
    return float(found @ expected / (found.norm() * expected.norm()))


def called(name: str, problem: RidgeOfFive, inner_steps: int = STEPS, /, seed: int = 0, **options: Any) -> torch.Tensor:
    """Return the hypergradient of a method from the problem's start."""
    chosen = method(name)
    params = problem.parts(problem.start_at)
    state = InnerState(params, problem.optimiser.init(params))
    built = build(chosen.options, options, f"method '{name}'")
    return chosen(problem, state, problem.initial(), problem.window(inner_steps), built, generator(seed, "peers")).meta[
        "l"
    ]


def lower(feed: Any, upper: Any, model: Any, params: Any = None) -> torch.Tensor:
    """Return f, for BOAT, with a proximal term where the feed has one."""
    leaves = model() if params is None else model(params=params)
    meta = upper()
    if "l" in meta:
        return feed["problem"].inner_loss(leaves, meta, {})
    value = feed["problem"].inner_loss(leaves, feed["problem"].initial(), {})
    if "proximal" in feed:
        w, centre = (torch.cat(list(one.values())) for one in (leaves, meta))
        value = value + feed["proximal"] / 2 * (w - centre).square().sum()
    return value


def upper(feed: Any, upper_model: Any, model: Any, params: Any = None) -> torch.Tensor:
    """Return F, for BOAT."""
    leaves = model() if params is None else model(params=params)
    value: torch.Tensor = feed["problem"].outer_loss(leaves, upper_model(), {})
    return value


def aggregated(feed: Any, of_upper: Any, upper_model: Any, model: Any, params: Any = None) -> torch.Tensor:
    """Return (1 - alpha) f + alpha F, for BOAT's GDA."""
    share = feed["alpha"]
    return (1 - share) * lower(feed, upper_model, model, params) + share * upper(of_upper, upper_model, model, params)


class Direct:
    """A problem of BOAT as its user makes it: models of parameters, losses by path, a dictionary of settings."""

    def __init__(
        self,
        problem: RidgeOfFive,
        operations: dict[str, Any],
        steps: int = STEPS,
        momentum: float = 0.0,
        start: bool = False,
        **feed: Any,
    ) -> None:
        import boat_torch

        self.model = tree_module(tree.tree_map(torch.clone, problem.parts(problem.start_at)))
        # MAML: the meta-parameters are the initial parameters.
        meta = problem.parts(problem.start_at) if start else problem.initial()
        self.upper = self.model if start and not feed else tree_module(tree.tree_map(torch.clone, meta))
        self.feed = {"problem": problem, **feed}
        self._folder = tempfile.TemporaryDirectory(prefix="metabench-boat-")
        here = "peers"
        self.problem = boat_torch.Problem(
            {
                "fo_op": None,
                "gm_op": ["NGD"],
                "na_op": None,
                "lower_iters": steps,
                "device": "cpu",
                "return_grad": True,
                "accumulate_grad": False,
                "copy_last_param": True,
                "fo_ol_batch_input": False,
                "loss_log_path": str(Path(self._folder.name) / "losses.json"),
                "DI": {"lr": 0.1},
                "GDA": {"alpha_init": 0.5, "alpha_decay": 0.9},
                "RGT": {"truncate_iter": 0},
                "CG": {"k": 10, "tolerance": 1e-10},
                "FD": {"r": 1e-2},
                "lower_level_model": self.model,
                "upper_level_model": self.upper,
                "lower_level_opt": torch.optim.SGD(self.model.parameters(), lr=problem.rate, momentum=momentum),
                "upper_level_opt": torch.optim.SGD(self.upper.parameters(), lr=0.0),
                "lower_level_var": list(self.model.parameters()),
                "upper_level_var": list(self.upper.parameters()),
                **operations,
            },
            {
                "lower_level_loss": {"function": f"{here}.lower", "params": {}},
                "upper_level_loss": {"function": f"{here}.upper", "params": {}},
                "gda_loss": {"function": f"{here}.aggregated", "params": {}},
            },
        )
        self.problem.build_ll_solver().build_ul_solver()

    def __call__(self, iteration: int = 0) -> torch.Tensor:
        found, _ = self.problem.run_iter(self.feed, dict(self.feed), iteration)
        return torch.cat([one.detach().clone().flatten() for one in found])


def written(value: float) -> str:
    """Return a figure in two digits."""
    return f"{value:.2g}"


def of_boat() -> Iterator[Row]:
    """Yield the rows of BOAT."""
    problem = RidgeOfFive()
    end = problem.after(STEPS)
    implicit = problem.implicit(end)

    def row(operation: str, against: str, found: float | str, known: str = "") -> Row:
        return Row("BOAT", operation, against, found if isinstance(found, str) else written(found), known)

    yield row("NGD+RAD", "reverse mode", error(called("boat_rad", problem), problem.through(STEPS)), "0")
    share, decay = 0.5, 0.9
    rate, identity = problem.rate, torch.eye(5, dtype=torch.float64)
    of_outer = problem.z.T @ problem.z / EXAMPLES
    path = [problem.start_at]
    for k in range(STEPS):
        alpha = share * decay**k
        path.append(path[-1] - rate * ((1 - alpha) * problem.slope(path[-1]) + alpha * problem.outer_slope(path[-1])))
    v, total = problem.outer_slope(path[-1]), torch.zeros(5, dtype=torch.float64)
    for k in reversed(range(STEPS)):
        alpha = share * decay**k
        total = total + problem.pulled(path[k], rate * (1 - alpha) * v)
        v = (identity - rate * ((1 - alpha) * problem.hessian + alpha * of_outer)) @ v
    found = Direct(problem, {"gm_op": ["NGD", "GDA"], "na_op": ["RAD"]})()
    yield row("GDA+RAD", "aggregated reverse mode", error(found, total), "0")
    alpha = share * decay**STEPS
    system = (1 - alpha) * problem.hessian + alpha * of_outer
    expected = problem.pulled(path[-1], (1 - alpha) * torch.linalg.solve(system, problem.outer_slope(path[-1])))
    found = Direct(problem, {"gm_op": ["NGD", "GDA"], "na_op": ["CG"]})()
    words = f"{written(error(found, expected))}, cosine {cosine(found, expected):.2f}"
    yield row("GDA+CG", "aggregated implicit", words, "0.86, cosine 0.56")
    back = torch.linalg.matrix_power(identity - rate * problem.hessian, STEPS) @ problem.outer_slope(end)
    yield row("IAD", "MAML", error(Direct(problem, {"na_op": ["IAD"]}, start=True)(), back), "0")
    found = Direct(problem, {"na_op": ["IAD", "FOA"]}, start=True)()
    yield row("FOA+IAD", "first-order MAML", error(found, problem.outer_slope(end)), "0")

    proximal = 1.0
    at = problem.start_at
    for _ in range(STEPS):
        at = at - rate * (problem.slope(at) + proximal * (at - problem.start_at))
    moreau = torch.linalg.solve(problem.hessian + proximal * identity, proximal * problem.outer_slope(at))
    for solver in ("CG", "NS"):
        found = Direct(problem, {"na_op": ["IAD", solver]}, start=True, proximal=proximal)()
        words = f"{written(error(found, moreau))}, cosine {cosine(found, moreau):.2f}"
        yield row(f"IAD+{solver}, proximal term 1", "implicit MAML", words, "1.0, cosine 0.37")

    yield row("NS", "Neumann series at w_K", error(called("boat_ns", problem), problem.neumann(end, 10)), "3e-16")
    yield row("CG", "dense solve at w_K", error(called("boat_cg", problem), implicit), "2.3e-4")
    yield row(
        "CG, tolerance 1e-3",
        "dense solve at w_K",
        error(called("boat_cg", problem, tolerance=1e-3), implicit),
        "2.0e-2",
    )
    narrow = RidgeOfFive(features=1)
    yield row(
        "CG, one dimension",
        f"{float(narrow.implicit(narrow.after(STEPS))):.4g}",
        f"{float(called('boat_cg', narrow)):.4g} returned",
        "0.0 for -0.4247",
    )
    decayed = RidgeOfFive(decay=0.3)
    expected = decayed.implicit(decayed.after(STEPS))
    for name, options, known in (("cg", {}, "0.31"), ("ns", {"k": 500}, "")):
        found = called(f"boat_{name}", decayed, **options)
        yield row(f"{name.upper()}, weight decay 0.3", "dense solve", error(found, expected), known)
    for steps, known in ((1, "1e-14"), (2, "0.19"), (5, "0.96"), (20, "6.4")):
        found = called("boat_fd", problem, steps)
        yield row(f"FD, K = {steps}", "one step", error(found, problem.one_step(steps)), known)
    for truncated, known in ((1, "27"), (5, "117"), (15, "400")):
        found = Direct(problem, {"na_op": ["RGT", "RAD"], "RGT": {"truncate_iter": truncated}})()
        # BOAT takes `truncate_iter` steps without a graph, and the rest with one.
        yield row(f"RGT+RAD, {truncated} of 20", "truncated", error(found, problem.through(STEPS - truncated)), known)
    values = [float(problem.outer_loss(problem.parts(problem.after(k)), {}, {})) for k in range(1, STEPS + 1)]
    chosen = problem.after(values.index(max(values)) + 1)
    for solver in ("CG", "NS"):
        found = Direct(problem, {"na_op": ["PTT", solver]})()
        yield row(
            f"PTT+{solver}",
            "dense solve at the chosen step",
            error(found, problem.implicit(chosen)),
            "1.2 / 9.2, two starts",
        )
    found = Direct(problem, {"na_op": ["PTT", "FD"]}, steps=1)()
    yield row("PTT+FD, K = 1", "one step", error(found, problem.one_step(1)), "1.0")

    def rank_one(steps: int) -> torch.Tensor:
        w = problem.after(steps)
        slope = problem.slope(w)
        return -(problem.outer_slope(w) @ slope) / (slope @ slope) * problem.l.exp() * w.square() / 2

    yield row("IGA", "its rank-one formula", error(called("boat_iga", problem), rank_one(STEPS)), "2e-16")
    for steps, known in ((20, "1.05"), (100, "618"), (300, "1e9")):
        found = called("boat_iga", problem, steps)
        yield row(f"IGA, K = {steps}", "implicit", error(found, problem.implicit(problem.after(steps))), known)
    for solver, known in (("rad", "6e-16"), ("cg", "5e-8")):
        found = called("boat_dm", problem, 600, solver=solver, eta0=8.0, tau=0.0)
        yield row(
            f"DM+{solver.upper()}, 600 calls", "dense solve", error(found, problem.implicit(problem.after(599))), known
        )
    yield row("DM+RAD, the first call", "", f"norm {written(float(called('boat_dm', problem, 1).norm()))}", "0")
    value = float(problem.inner_loss(problem.parts(end), problem.initial(), {}))
    settled = STEPS * 20
    still = problem.implicit(problem.after(settled))
    value = float(problem.inner_loss(problem.parts(problem.after(settled)), problem.initial(), {}))
    found = called("boat_vso", problem, settled, barrier=2e5 * value, learning_rate=0.5 / 2e5, steps=200)
    yield row("VSO, multiplier 2e5", "implicit at the minimum", error(found, still), "1e-5")
    options = {"gamma": 1e4, "learning_rate": 0.5, "steps": 200}
    yield row(
        "PGDO (difference), multiplier 1e4",
        "implicit at the minimum",
        error(called("boat_pgdo", problem, settled, **options), still),
        "2e-4",
    )
    found = called("boat_pgdo", problem, settled, penalty="gradient", **options)
    yield row(
        "PGDO (gradient)",
        "implicit at the minimum",
        f"{written(error(found, still))}, norm {written(float(found.norm()))}",
        "1.0: zero",
    )
    found = called("boat_meso", problem, settled, penalty=1e4, eta=0.2, gamma=1.0, learning_rate=0.4, steps=400)
    yield row("MESO, c 1e4, eta 0.2, gamma 1", "implicit at the minimum", error(found, still), "0.19")
    damped = problem.implicit(problem.after(settled), damping=0.2)
    yield row("the same", "implicit, H damped by eta gamma^2", error(found, damped), "4e-4")
    yield row("VFO", "its formula", error(called("boat_vfo", problem, u1=20.0), _bome(problem, 20.0)), "1e-8 to 1e-7")
    found = called("boat_rad", RidgeOfFive(rate=1e200))
    yield row("RAD after a run that diverges", "not a number", f"norm {written(float(found.norm()))}", "zeros")
    again = Direct(problem, {"na_op": ["RAD"], "copy_last_param": False})
    first = again()
    times = [float((again(k) @ first) / (first @ first)) for k in (1, 2)]
    yield row(
        "return_grad, called again",
        "the first call",
        ", ".join(written(one) for one in (1.0, *times)) + " times",
        "1, 2, 3",
    )
    kept = Direct(problem, {"na_op": ["RAD"]}, steps=10, momentum=0.9)
    kept()
    kept()
    at, speed = problem.start_at, torch.zeros(5, dtype=torch.float64)
    for _ in range(STEPS):
        speed = 0.9 * speed + problem.slope(at)
        at = at - problem.rate * speed
    reached = torch.cat([leaf.detach() for leaf in kept.model().values()])
    yield row("momentum, two windows of 10", "parameters after 20 steps", error(reached, at), "0.75")
    seconds = []
    logged = Direct(problem, {"na_op": ["RAD"]}, steps=1)
    begun = time.perf_counter()
    for call in range(1, 1001):
        logged(call)
        if call in (500, 1000):
            seconds.append(time.perf_counter() - begun)
    yield row("500 and 1000 calls of one problem", "", " and ".join(f"{one:.1f} s" for one in seconds), "1.0 and 2.8 s")


def _bome(problem: RidgeOfFive, u1: float) -> torch.Tensor:
    w, y, speed = problem.after(STEPS), problem.start_at, torch.zeros(5, dtype=torch.float64)
    for _ in range(STEPS):
        speed = 0.5 * speed + problem.slope(y)
        y = y - 0.1 * speed
    meta = problem.initial()
    q = float(problem.inner_loss(problem.parts(w), meta, {}) - problem.inner_loss(problem.parts(y), meta, {}))
    of_l = problem.l.exp() * (w.square() - y.square()) / 2
    gap = torch.cat([problem.slope(w), of_l])
    outer = torch.cat([problem.outer_slope(w), torch.zeros_like(of_l)])
    return max(float((u1 * q - outer @ gap) / (gap @ gap + 1e-8)), 0.0) * of_l


def of_hippotrainer() -> Iterator[Row]:
    """Yield the rows of hippotrainer."""
    problem = RidgeOfFive()
    end = problem.after(STEPS)
    implicit = problem.implicit(end)

    def row(operation: str, against: str, found: float | str, known: str = "") -> Row:
        return Row("hippotrainer", operation, against, found if isinstance(found, str) else written(found), known)

    found = called("hippo_t1t2", problem)
    yield row(
        "T1T2, by its formula", "dF/dl - J dF/dw at w_K", error(found, problem.pulled(end, problem.outer_slope(end)))
    )
    yield row("T1T2", "one step", error(found, problem.one_step(STEPS)), "9 at rate 0.1")
    for terms, known in ((1, "0"), (2, "0.66"), (10, "0.97")):
        found = called("hippo_neumann", problem, num_terms=terms)
        yield row(
            f"Neumann, {terms} term{'s' * (terms > 1)}",
            "Neumann series at w_K",
            error(found, problem.neumann(end, terms)),
            known,
        )
    for scale, known in ((1.0, ""), (0.1, "0.11"), (0.01, "0.66"), (0.001, "1: zero")):
        scaled = RidgeOfFive(scale=scale)
        found = called("hippo_hoag", scaled)
        yield row(f"HOAG, F times {scale:g}", "dense solve at w_K", error(found, scale * implicit), known)
    yield row("DrMAD", "", _drmad(), "raises")


def _drmad() -> str:
    """Return what hippotrainer's DRMAD does with a linear model whose squared error has a learned penalty."""
    import hippotrainer

    model, data = torch.nn.Linear(2, 1), [(torch.ones(3, 2), torch.ones(3, 1))]
    penalty = torch.zeros((), requires_grad=True)

    def loss(found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (found - targets).square().mean() + penalty.exp() * model.weight.square().sum()

    settings = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "train_loader": data, "val_loader": data}
    trainer = hippotrainer.DRMAD({"penalty": penalty}, model=model, criterion=loss, inner_steps=2, **settings)
    try:
        found = trainer.hyper_grad(*trainer.evaluate())
    except Exception as why:  # whatever somebody else's code raises is the result
        return f"raises {type(why).__name__}"
    return f"returns {float(found[0]):.2g}"


def of_torchopt() -> Iterator[Row]:
    """Yield the rows of TorchOpt."""
    problem = RidgeOfFive()
    found = called("torchopt_unrolled", problem)
    yield Row("TorchOpt", "functional SGD", "reverse mode", written(error(found, problem.through(STEPS))))
    found = called("torchopt_ift_cg", problem)
    yield Row(
        "TorchOpt",
        "custom_root, solve_cg",
        "dense solve at w_K",
        written(error(found, problem.implicit(problem.after(STEPS)))),
    )


BESIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "boat_rad": ("unrolled", {}),
    "boat_cg": ("ift_cg", {"steps": 10}),
    "boat_ns": ("ift_neumann", {"steps": 10, "scale": 0.1}),
    "boat_fd": ("darts", {}),
    "boat_iga": ("sama", {}),
    "boat_dm": ("ift_neumann", {"steps": 10, "scale": 0.1}),
    "boat_vso": ("f2sa", {}),
    "boat_meso": ("f2sa", {}),
    "boat_pgdo": ("f2sa", {}),
    "boat_vfo": ("bome", {}),
    "hippo_t1t2": ("t1t2", {}),
    "hippo_neumann": ("ift_neumann", {"steps": 1, "scale": 0.1}),
    "hippo_hoag": ("ift_cg", {"steps": 10}),
}
"""Beside which of the house's methods each stands in the table of costs: the same, or the nearest."""


def of_metabench() -> Iterator[Row]:
    """Yield how far the methods here are from what they estimate, where that is not exact."""
    row = functools.partial(Row, "metabench")
    problem = RidgeOfFive()
    minimum = torch.linalg.solve(problem.hessian, problem.x.T @ problem.y / EXAMPLES)
    at_minimum = problem.implicit(minimum)
    exact = problem.through(STEPS)
    found = called("ift_newton", problem, 1)
    yield row("ift_newton, quadratic, K = 1", "implicit at the minimum", written(error(found, at_minimum)), "1e-15")
    for name, steps, known in (("ift_newton", 20, "4.6e-4"), ("ift_cg", 20, ""), ("ift_cg", 40, "4.2e-3")):
        yield row(f"{name}, logistic, K = {steps}", "implicit at the minimum", written(_on_logistic(name, steps)), known)
    arrived = RidgeOfFive()
    arrived.start_at = minimum
    for order, known in ((1, "2.2e-2"), (2, "3.4e-4"), (4, "")):
        found = called("f2sa", arrived, penalty=100.0, steps=600, learning_rate=0.3, order=order)
        yield row(f"f2sa, order {order}, penalty 100", "implicit at the minimum", written(error(found, at_minimum)), known)
    wide = {"penalty": 1e4, "proximal": 30.0, "steps": 600, "learning_rate": 0.3, "proximal_rate": 0.3}
    yield row("meha, c 1e4", "implicit at the minimum", written(error(called("meha", arrived, **wide), at_minimum)), "5e-4")
    yield row("single_loop, 300 windows at still l", "dense solve at w_K", written(_still(problem)))
    drawn = [called("forward_gradient", problem, seed=seed) for seed in range(2000)]
    variance = torch.stack([(one - exact).square().sum() for one in drawn]).mean() / exact.square().sum()
    yield row("forward_gradient, signs", "variance over |g|^2", f"{float(variance):.2f}", "3.99, in theory 4")
    pairs = [(called("es_jacobian", problem, noise="sign", seed=seed), drawn[seed]) for seed in range(20)]
    worst = statistics.median(error(*pair) for pair in pairs)
    yield row("es_jacobian, mu 0.01", "forward_gradient of the same draws", written(worst), "6.9e-4")
    found = called("drmad", problem)
    yield row("drmad", "reverse mode", f"{error(found, exact):.2g}, cosine {cosine(found, exact):.2f}", "2.42, cosine 0.07")
    network = Perceptron(256, STEPS)
    for steps, known in ((10, "0.289"), (20, "0.205")):
        answer = Case(method("ift_minres"), {"steps": steps}, network)()
        residual = written(answer.diagnostics["solver_residual"])
        yield row(f"ift_minres, {steps} products, MLP", "relative residual", residual, known)
    answer = Case(method("ift_minres"), {"steps": 20, "carried": 1}, network)()
    residual = written(answer.diagnostics["solver_residual"])
    yield row("the same, all directions held", "relative residual", residual, "0.205")
    answer = Case(method("ift_cg"), {"steps": 20}, network)()
    stopped = f"{written(answer.diagnostics['solver_residual'])} after {answer.diagnostics['solver_steps']:g} products"
    yield row("ift_cg, MLP", "relative residual", stopped, "2.6 after 3")


def _on_logistic(name: str, steps: int) -> float:
    """Return the relative error against the hypergradient of the minimum, after some steps on one batch of logistic regression."""
    at = moving(Logistic("momentum", inner_steps=steps))
    case = CertifiedCase(at.problem, at.state, at.meta, (Window.ending_in((at.window.inner[0],) * steps, at.outer_batch),))
    chosen = method(name)
    built = build(chosen.options, {"steps": 20}, name)
    found = chosen(case.problem, case.state, case.meta, case.window, built, generator(0, "peers")).meta
    assert case.at_minimum is not None
    return error(tree.flatten(found), tree.flatten(case.at_minimum))


def _still(problem: RidgeOfFive) -> float:
    """Return the error of the single-loop method after many windows that begin where the first did."""
    chosen, params = method("single_loop"), problem.parts(problem.start_at)
    built, memory = build(chosen.options, {"rate": 0.5}, "single_loop"), {}
    for _ in range(300):
        state = InnerState(params, problem.optimiser.init(params), memory)
        found = chosen(problem, state, problem.initial(), problem.window(STEPS), built, generator(0, "peers"))
        memory = dict(found.state.memory)
    return error(found.meta["l"], problem.implicit(problem.after(STEPS)))


class Cost(NamedTuple):
    """Seconds and peak bytes of a call, beside those of a method of the house."""

    name: str
    beside: str
    seconds: float
    seconds_ratio: float
    peak: int
    peak_ratio: float
    note: str


def costs(repeats: int, report: Report) -> list[Cost]:
    """Return what each peer takes on the perceptron, and how much of the method beside it; the rounds go over all."""
    problem = Perceptron(256, STEPS)
    cases: dict[tuple[str, str], Case] = {}
    peaks: dict[tuple[str, str], int] = {}
    notes: dict[tuple[str, str], str] = {}
    for peer, ours in BESIDE.items():
        for name, options in ((peer, {}), ours):
            key = (name, str(options))
            if key in cases:
                continue
            one = Case(methods()[name], options, problem)
            try:
                answer = one()
            except Unsupported as why:
                report.skip(name, str(why))
                break
            if "solver_steps" in answer.diagnostics and name == "ift_cg":
                notes[key] = f"ift_cg stops after {answer.diagnostics['solver_steps']:g} products"
            cases[key], peaks[key] = one, one.peak()
    rounds: dict[tuple[str, str], list[float]] = {key: [] for key in cases}
    for turn in range(repeats):
        for key in list(cases) if turn % 2 == 0 else reversed(cases):
            rounds[key].append(cases[key].seconds())
    found = []
    for peer, (name, options) in BESIDE.items():
        theirs, ours = (peer, "{}"), (name, str(options))
        if theirs in cases and ours in cases:
            seconds, base = statistics.median(rounds[theirs]), statistics.median(rounds[ours])
            words = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
            ratio = peaks[theirs] / peaks[ours]
            found.append(Cost(peer, words, seconds, seconds / base, peaks[theirs], ratio, notes.get(ours, "")))
    return found


LIBRARIES = ("metabench", "BOAT", "hippotrainer", "TorchOpt", "Betty", "benchopt bilevel", "JAXopt")
THERE, MISSING = "there", "–"
MATRIX: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "reverse mode through the run",
        {"metabench": "unrolled", "BOAT": "NGD+RAD", "TorchOpt": "functional SGD"}
        | dict.fromkeys(("Betty", "benchopt bilevel", "JAXopt"), THERE),
    ),
    ("the same, recomputed or in forward mode", {"metabench": "unrolled_remat, mixflow, forward"}),
    ("the same, one random tangent", {"metabench": "forward_gradient"}),
    ("the same, over all windows", {"metabench": "forward_carried"}),
    ("the same, along a straight line (DrMAD)", {"metabench": "drmad", "hippotrainer": "DrMAD"}),
    ("through the last steps", {"metabench": "truncated", "BOAT": "RGT+RAD, 5 of 20"}),
    ("one step", {"metabench": "t1t2", "hippotrainer": "T1T2"}),
    ("one step by differences (DARTS)", {"metabench": "darts", "BOAT": "FD, K = 20", "Betty": THERE}),
    (
        "implicit, conjugate gradients",
        {
            "metabench": "ift_cg",
            "BOAT": "CG",
            "hippotrainer": "HOAG, F times 1",
            "TorchOpt": "custom_root, solve_cg",
            "Betty": THERE,
            "benchopt bilevel": THERE,
            "JAXopt": THERE,
        },
    ),
    (
        "implicit, Neumann series",
        {"metabench": "ift_neumann", "BOAT": "NS", "hippotrainer": "Neumann, 10 terms"}
        | dict.fromkeys(("TorchOpt", "Betty", "benchopt bilevel"), THERE),
    ),
    ("implicit, Nyström", {"metabench": "ift_nystrom"}),
    ("implicit, least residual", {"metabench": "ift_minres"}),
    ("implicit, empirical Fisher matrix", {"metabench": "ift_fisher"}),
    ("implicit, each product on another batch", {"metabench": "ift_stochastic", "benchopt bilevel": THERE}),
    ("implicit at the minimum", {"metabench": "ift_newton"}),
    (
        "implicit, one adjoint step at a time",
        {"metabench": "single_loop", "BOAT": "DM+RAD, 600 calls", "benchopt bilevel": THERE},
    ),
    ("implicit, rank one (IGA)", {"BOAT": "IGA, K = 20"}),
    ("identity for the inverse Hessian (SAMA)", {"metabench": "sama", "Betty": THERE}),
    (
        "penalised value function",
        {"metabench": "f2sa", "BOAT": "VSO, multiplier 2e5", "benchopt bilevel": THERE},
    ),
    ("dynamic barrier (BOME)", {"metabench": "bome", "BOAT": "VFO", "benchopt bilevel": THERE}),
    ("Moreau envelope (MEHA)", {"metabench": "meha", "BOAT": "MESO, c 1e4, eta 0.2, gamma 1"}),
    ("evolution strategies", {"metabench": "es, pes", "TorchOpt": THERE}),
    ("differences of runs (PZOBO)", {"metabench": "es_jacobian", "benchopt bilevel": THERE}),
)
"""Which library has which hypergradient; a cell of a library that is run here names its row in the table of errors."""


def matrix(rows: Sequence[Row]) -> list[list[str]]:
    """Return the cells of the table of methods by libraries."""
    errors: dict[tuple[str, str], str] = {}
    for row in rows:
        errors.setdefault((row.library, row.operation), row.found)
    table = []
    for what, cells in MATRIX:
        line = [what]
        for library in LIBRARIES:
            cell = cells.get(library, MISSING)
            if library == "metabench":
                have = [f"`{name}`" for name in cell.split(", ") if name in methods()]
                cell = ", ".join(have) + ": certified" if have else MISSING
            elif (library, cell) in errors:
                cell = f"{cell}: {errors[library, cell]}"
            line.append(cell)
        if set(line[1:]) != {MISSING}:
            table.append(line)
    return table


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join("| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in rows)


def page(rows: Sequence[Row], found: Sequence[Cost], made_with: str) -> str:
    """Return the page of the documentation."""
    instead = [
        (f"`{name}`", one.target.value, one.peer.instead or "what it is named after")
        for name, one in methods().items()
        if one.peer and name in BESIDE
    ]
    return (
        "\n\n".join(
            [
                "# Other libraries",
                "`python benchmarks/peers.py --docs docs/peers.md` makes this page, and every figure in it. "
                + made_with,
                "BOAT and hippotrainer are methods here: `boat_*` and `hippo_*`, after `pip install --no-deps boat-torch==1.1.1 "
                "hippotrainer==1.0.0`. They are asked as they are, and a row says what the library computes. "
                "`metabench certify --method boat_cg` "
                "holds each to what it is named after, and to a formula of what it computes instead:",
                markdown(("method", "named after", "computes instead"), instead),
                "## Method by library",
                "Of metabench, what is certified; of a library that was run, its operation with the relative error on the ridge problem "
                "below. "
                "*there*: its documentation or source names it, and it was not run; –: not found there.",
                markdown(("hypergradient", *LIBRARIES), matrix(rows)),
                "## Errors",
                "Ridge regression in float64, five log-penalties, two parameter tensors, SGD at 0.1, K = 20 on all data, condition 2.7, "
                "F without "
                "l; each against a closed form; of metabench, where a method is not exact, also logistic regression on one batch, and the "
                "MLP below. *seen*: on another draw of such a problem, whose data are not known here: "
                "what depends on the "
                "data agrees in size, not in digits. Where BOAT's inverse is compared at the minimum, the run has 400 steps.",
                markdown(
                    ("library", "operation", "against", "relative error", "seen"),
                    [(row.library, row.operation, row.against, row.found, row.known) for row in rows],
                ),
                "## Cost",
                "An MLP 784-512-512-10 at batches of 256, K = 20, one thread, each at its defaults, beside the same "
                "method of "
                "metabench or the nearest.",
                markdown(
                    ("method", "beside", "seconds", "times", "peak MiB", "times", ""),
                    [
                        (
                            f"`{c.name}`",
                            f"`{c.beside}`",
                            f"{c.seconds:.2f}",
                            f"{c.seconds_ratio:.2f}",
                            f"{c.peak / MIB:.0f}",
                            f"{c.peak_ratio:.2f}",
                            c.note,
                        )
                        for c in found
                    ],
                ),
            ]
        )
        + "\n"
    )


def versions() -> str:
    """Return what the figures were made with."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return f"Made with {', '.join(found)}, Python {platform.python_version()}."


SOURCES: tuple[Callable[[], Iterator[Row]], ...] = (of_metabench, of_boat, of_hippotrainer, of_torchopt)


def _rows_of(source: Callable[[], Iterator[Row]]) -> tuple[list[Row], str]:
    """Return the rows of a source, or why there are none."""
    try:
        return list(source()), ""
    except Unsupported as why:
        return [], str(why)


def main() -> None:
    """Measure, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="write the page of the documentation there")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all methods (3)")
    parser.add_argument("--errors-only", action="store_true", help="no times and no memory")
    arguments = parser.parse_args()
    report, rows = Report(), []
    console = Console(width=140)
    # Errors need no quiet machine: sources share two processes. `spawn`, for what forks of a process with torch's threads do.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for source, (found_rows, why) in zip(SOURCES, pool.map(_rows_of, SOURCES), strict=True):
            rows += found_rows
            if why:
                report.skip(source.__name__, why)
    torch.set_num_threads(1)
    table = Table(title="relative errors on the ridge problem of condition 2.7")
    for heading in ("library", "operation", "against", "relative error", "seen elsewhere"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    found = [] if arguments.errors_only else costs(arguments.repeats, report)
    if found:
        table = Table(title="784-512-512-10, batch 256, K = 20, one thread")
        for heading in ("method", "beside", "seconds", "times", "peak MiB", "times", ""):
            table.add_column(heading)
        for c in found:
            table.add_row(
                c.name,
                c.beside,
                f"{c.seconds:.3f}",
                f"{c.seconds_ratio:.2f}",
                f"{c.peak / MIB:.1f}",
                f"{c.peak_ratio:.2f}",
                c.note,
            )
        console.print(table)
    report.say(versions())
    if arguments.docs:
        arguments.docs.write_text(page(rows, found, versions()), encoding="utf-8")


if __name__ == "__main__":
    restart_with(PORTABLE)
    main()
