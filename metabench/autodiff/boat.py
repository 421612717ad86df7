"""Calls of the library BOAT (boat-torch 1.1.1): its problem made of a window, its log in a folder that does not outlive it.

BOAT takes models, optimisers of torch.optim, losses by dotted path and a dictionary of settings. A fresh problem is made for each call,
through its public interface alone, and nothing that it computes is changed: `metabench.methods.boat` says what that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from metabench.autodiff.inner import begun
from metabench.autodiff.peers import Recipe, pinned, recipe, refusing, torch_optimiser, tree_module
from metabench.core import tree
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.support import refuse_earlier_outer_losses
from metabench.core.types import Batch, InnerState, Tree, Window

SETTINGS: Mapping[str, Any] = {
    "DI": {"lr": 0.1},
    "GDA": {"alpha_init": 0.5, "alpha_decay": 0.9},
    "RGT": {"truncate_iter": 0},
    "CG": {"k": 10, "tolerance": 1e-10},
    "FD": {"r": 1e-2},
}
"""What BOAT reads of any problem, whichever operations it has: the values of its examples."""


class Losses:
    """The two losses as BOAT calls them, each call of the inner loss on the next of `batches` and, once these are over, on the last.

    skips_idle: whether the inner run is another one if a parameter has no gradient. `outer_values` has F at each of its calls;
    `at_first_outer` is called before the first of them.
    """

    def __init__(
        self, problem: Problem, batches: Iterator[Batch], last: Batch, due: Batch, skips_idle: bool = False
    ) -> None:
        self.problem, self.batches, self.last, self.due, self.skips_idle = problem, batches, last, due, skips_idle
        self.outer_values: list[float] = []
        self.at_first_outer: Callable[[], None] | None = None

    def inner(self, upper: Any, lower: Any, params: list[torch.Tensor] | None) -> torch.Tensor:
        """Return f at the models' parameters."""
        leaves = _tree(lower, params)
        value = self.problem.inner_loss(leaves, upper(), next(self.batches, self.last))
        if self.skips_idle:
            self.skips_idle = False  # it is the same at every call
            _refuse_idle(value, leaves)
        return value

    def outer(self, upper: Any, lower: Any, params: list[torch.Tensor] | None) -> torch.Tensor:
        """Return F at the models' parameters."""
        if not self.outer_values and self.at_first_outer is not None:
            self.at_first_outer()
        value = self.problem.outer_loss(_tree(lower, params), upper(), self.due)
        self.outer_values.append(float(value.detach()))
        return value


def _refuse_idle(value: torch.Tensor, leaves: Tree) -> None:
    """Raise Unsupported if a loss does not reach a parameter: torch.optim and higher skip it, along with its momentum and decay."""
    reached: set[Any] = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in reached:
            continue
        reached.add(node)
        waiting += [parent for parent, _ in node.next_functions]
    variables = {id(node.variable) for node in reached if hasattr(node, "variable")}
    idle = [name for name, leaf in leaves.items() if id(leaf) not in variables and leaf.grad_fn not in reached]
    if idle:
        raise Unsupported(
            f"the inner loss does not use {', '.join(map(repr, idle))}, and BOAT's optimisers skip such parameters, "
            "their momentum and decay too"
        )


def _tree(lower: Any, params: list[torch.Tensor] | None) -> Tree:
    """Return the tree of a module, or of one that higher has patched, at its own parameters or at others."""
    found: Tree = lower() if params is None else lower(params=params)
    return found


def lower_loss(feed: Any, upper: Any, lower: Any, params: list[torch.Tensor] | None = None) -> torch.Tensor:
    """Return f. BOAT imports this function by its name."""
    losses: Losses = feed["losses"]
    return losses.inner(upper, lower, params)


def upper_loss(feed: Any, upper: Any, lower: Any, params: list[torch.Tensor] | None = None) -> torch.Tensor:
    """Return F. BOAT imports this function by its name."""
    losses: Losses = feed["losses"]
    return losses.outer(upper, lower, params)


class Asked(NamedTuple):
    """What a method asks of BOAT at a window: where the inner run begins, its optimiser in torch.optim's terms, and the last batches."""

    problem: Problem
    begun: InnerState
    meta: Tree
    window: Window
    due: Batch
    words: Recipe
    rate: float

    def optimiser(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the inner optimiser for a module made of the state's parameters, the state's slots in it."""
        return torch_optimiser(self.words, module, self.begun, self.rate)

    def losses(self, batches: Iterable[Batch] = ()) -> Losses:
        """Return the losses, the first calls of the inner one on `batches`."""
        moves_alone = bool(self.words.slots or self.words.settings["weight_decay"])
        return Losses(self.problem, iter(batches), self.window.inner[-1], self.due, skips_idle=moves_alone)

    def moved(self, params: Tree, optimiser: torch.optim.Optimizer, module: torch.nn.Module) -> InnerState:
        """Return the state after K steps of an optimiser of torch.optim."""
        slots: dict[str, Tree] = {}
        for ours, theirs in self.words.slots.items():
            held = [optimiser.state[leaf][theirs].detach().clone() for leaf in module.parameters()]
            slots[ours] = dict(zip(params, held, strict=True))
        return InnerState(params, slots | self.words.counted(self.begun.optimiser, len(self.window.inner)))


def asked(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Asked:
    """Return what to ask of BOAT.

    Raises:
        Unsupported: outer losses are due before the window's end; the inner optimiser is neither SGD nor momentum, or its learning
            rate is not one number.
    """
    due = refuse_earlier_outer_losses(window, "BOAT has one, at the end")
    words = recipe(problem.optimiser, state.optimiser, meta, "BOAT")
    if words.name != "SGD":
        raise Unsupported(
            f"BOAT steps with {words.name} of torch.optim or of higher, in which eps enters elsewhere than in the problem's: "
            "that is another run"
        )
    rate = words.rate(next(iter(state.params)))
    if words.apart or words.varies or not isinstance(rate, float | int):
        raise Unsupported("the learning rate is learned or scheduled, and BOAT's inner optimisers step at one number")
    return Asked(problem, begun(problem, state, meta), tree.detach(meta), window, due, words, float(rate))


class Boat:
    """A problem of BOAT, fresh, with its models and the inner optimiser."""

    def __init__(self, package: Any, losses: Losses, lower: Any, upper: Any, optimiser: Any, settings: Any) -> None:
        self.lower, self.upper, self.optimiser = lower, upper, optimiser
        self._feed = {"losses": losses}
        place = __name__
        self._problem = package.Problem(
            {
                "fo_op": None,
                "gm_op": None,
                "na_op": None,
                **{name: dict(values) for name, values in SETTINGS.items()},
                "return_grad": True,
                "accumulate_grad": False,
                "copy_last_param": True,
                "fo_ol_batch_input": False,
                "device": str(next(lower.parameters()).device),
                "lower_level_model": lower,
                "upper_level_model": upper,
                "lower_level_opt": optimiser,
                # The meta-parameters are not moved here: with `return_grad` BOAT does not step.
                "upper_level_opt": torch.optim.SGD(upper.parameters(), lr=0.0),
                "lower_level_var": list(lower.parameters()),
                "upper_level_var": list(upper.parameters()),
                **settings,
            },
            {
                "lower_level_loss": {"function": f"{place}.lower_loss", "params": {}},
                "upper_level_loss": {"function": f"{place}.upper_loss", "params": {}},
            },
        )
        self._problem.build_ll_solver().build_ul_solver()

    def run(self, current_iter: int = 0) -> Tree:
        """Return the gradient of one `run_iter`; of an earlier one, which BOAT would add it to, nothing is left."""
        self.upper.zero_grad(set_to_none=True)
        found, _ = self._problem.run_iter(self._feed, self._feed, current_iter)
        leaves: Tree = self.upper()
        return {
            name: torch.zeros_like(leaf.detach()) if gradient is None else gradient.detach().clone()
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }

    def params(self) -> Tree:
        """Return the parameters of the lower model, of their own."""
        return {name: leaf.detach().clone() for name, leaf in self.lower().items()}


@contextmanager
def boat(
    losses: Losses,
    params: Tree,
    meta: Tree,
    optimiser: Callable[[torch.nn.Module], torch.optim.Optimizer],
    settings: Mapping[str, Any],
) -> Iterator[Boat]:
    """Yield a fresh problem of BOAT at (params, meta), its log in a temporary folder that is removed; gradients are recorded meanwhile.

    settings: the operations and their settings, by BOAT's names.

    Raises:
        Unsupported: BOAT is not installed in this release; its log cannot be written; or it raises, as where a loss does not use a
            parameter.
    """
    package = pinned("boat_torch")
    with _folder() as folder, torch.enable_grad():
        lower, upper = (tree_module(tree.tree_map(_own, leaves)) for leaves in (params, meta))
        log = {"loss_log_path": str(folder / "losses.json")}
        try:
            with refusing("BOAT"):
                yield Boat(package, losses, lower, upper, optimiser(lower), {**settings, **log})
        except OSError as error:
            raise _unwritable(error) from error


def _own(leaf: torch.Tensor) -> torch.Tensor:
    """Return a tensor of its own: BOAT writes into a model's parameters."""
    return leaf.detach().clone(memory_format=torch.contiguous_format)


@contextmanager
def _folder() -> Iterator[Path]:
    import tempfile

    try:
        folder = tempfile.TemporaryDirectory(prefix="metabench-boat-")
    except OSError as error:
        raise _unwritable(error) from error
    with folder as path:
        yield Path(path)


def _unwritable(error: OSError) -> Unsupported:
    return Unsupported(
        f"BOAT writes its losses to a file at every call, and there is no folder to write to ({error}): set TMPDIR to one"
    )
