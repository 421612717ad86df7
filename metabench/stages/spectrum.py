"""The linear map that a method's hypergradient is near the initial meta-parameters: its eigenvalues, and how far it is from symmetric."""

from __future__ import annotations

from collections.abc import Iterator

from metabench.core import tree
from metabench.core.curves import Curve
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.lazy import torch
from metabench.core.method import Target
from metabench.core.problem import Problem
from metabench.core.types import Tree
from metabench.results.spectra import ASYMMETRY, EIGENVALUES, LARGEST, LEAST
from metabench.stages.subject import PRECISE, Row, Subject

_DISTANCE = 1e-4
"""Of each meta-parameter to either side: a hypergradient that is linear in them is differentiated to rounding, and others to its square."""


def spectrum(subject: Subject) -> Iterator[Row]:
    """Yield the eigenvalues of J = dg/dl in float64, where g is the hypergradient of the first outer step, a mean over its tasks.

    SGD on the meta-parameters at the rate e is l <- l - e g, so along an eigenvector the distance from its fixed point shrinks by
    1 - e times the eigenvalue in each step; with a real part below zero it grows at any rate. The J of an exact method is a Hessian, and
    symmetric. It takes two hypergradients for each meta-parameter and task. A method that draws has the same draws in all of them.

    Raises:
        MetabenchError: there are more meta-parameters than `kind_options.most`, or the method has no hypergradients.
        Diverged: a hypergradient is not finite.
    """
    if subject.method.target is Target.NONE:
        raise MetabenchError("method 'none' has no hypergradients: take it out of experiments of kind 'spectrum'")
    problem = subject.make(PRECISE)
    meta = problem.initial()
    count = tree.count(meta)
    if count > subject.kind_options.most:
        raise MetabenchError(
            f"kind 'spectrum' takes two hypergradients for each of {count:,} meta-parameters and each task: `most` allows "
            f"{subject.kind_options.most:,}"
        )
    flat = tree.flatten(meta)
    columns = []
    for place in range(count):
        subject.tell("spectrum", place, count)
        aside = torch.zeros_like(flat)
        aside[place] = _DISTANCE
        ahead, behind = (_at(subject, problem, tree.unflatten(flat + sign * aside, meta)) for sign in (1, -1))
        columns.append((ahead - behind) / (2 * _DISTANCE))
    jacobian = torch.stack(columns, 1)
    values = torch.linalg.eigvals(jacobian)
    order = values.real.argsort()
    values = values[order]
    yield {
        "curves": {EIGENVALUES: Curve(values.real.tolist(), values.imag.tolist(), along="real part")},
        "meta_summary": {
            LEAST: float(values.real.min()),
            LARGEST: float(values.abs().max()),
            ASYMMETRY: float((jacobian - jacobian.mT).norm() / (2 * jacobian.norm()).clamp(min=torch.finfo(flat.dtype).tiny)),
        },
    }


def _at(subject: Subject, problem: Problem, meta: Tree) -> torch.Tensor:
    """Return the hypergradient of the first outer step at some meta-parameters, flat."""
    stream = subject.stream("spectrum")
    found = []
    for window in next(problem.window_lists()):
        entered, state = problem.entered(window, None)
        found.append(tree.flatten(subject.hypergradient(entered, state, meta, window, stream).meta))
    mean = torch.stack(found).mean(0)
    if not bool(mean.isfinite().all()):
        raise Diverged("a hypergradient near the initial meta-parameters is not finite")
    return mean
