"""Implicit differentiation, the inverse Hessian applied by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.implicit import implicit_hypergradient
from metabench.autodiff.linear_solvers import conjugate_gradients
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option
from metabench.core.lazy import torch

CITATION = """
    @inproceedings{pedregosa2016hyperparameter,
      title = {Hyperparameter Optimization with Approximate Gradient},
      author = {Pedregosa, Fabian},
      booktitle = {International Conference on Machine Learning},
      year = {2016}
    }
    @inproceedings{rajeswaran2019meta,
      title = {Meta-Learning with Implicit Gradients},
      author = {Rajeswaran, Aravind and Finn, Chelsea and Kakade, Sham M. and Levine, Sergey},
      booktitle = {Advances in Neural Information Processing Systems},
      year = {2019}
    }
"""


@dataclass(frozen=True)
class Options:
    """Options of `ift_cg`."""

    steps: int = option(10, minimum=1, help="conjugate gradient steps at the most")
    tolerance: float = option(1e-10, minimum=0, help="relative residual at which the solver stops")
    damping: float = option(0.0, minimum=0, help="added to the Hessian's diagonal")


@method(
    title="implicit differentiation with conjugate gradients",
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2", hvps="steps + 1 mixed product", memory="O(|w| + |activations|)"),
    citation=CITATION,
    options=Options,
)
def ift_cg(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) (d2f/dw2 + damping I)^-1 dF/dw at w_K. Pedregosa 2016, algorithm 1.

    Where the Hessian is indefinite, conjugate gradients stop there: the diagnostic `indefinite` is 1.
    """
    del generator
    return implicit_hypergradient(
        problem,
        state,
        meta,
        window,
        lambda product, target: conjugate_gradients(product, target, options.steps, options.tolerance),
        options.damping,
    )
