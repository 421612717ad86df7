"""The tasks of few-shot regression: sinusoids, two in the plane, and pairs of classes of images, each with a support and queries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.kernels.meta_kernel import Episode

SINUSOIDS, PLANE = "sinusoids", "plane"


def drawn_tasks(setting: Setting) -> list[Episode]:
    """Return the tasks trained on, then those of the test, drawn one by one."""
    options = setting.options
    numbers = [f"training task {n}" for n in range(options.tasks)] + [
        f"test task {n}" for n in range(options.test_tasks)
    ]
    streams = (generator(setting.seed, number) for number in numbers)
    if setting.data is None or not hasattr(setting.data, "train_inputs"):
        if options.family == PLANE:
            found = [_in_the_plane()[n % 2] for n in range(len(numbers))]
        else:
            found = [_sinusoid(options, stream) for stream in streams]
    else:
        found = _of_images(setting, numbers, streams)
    if options.noise:
        found = [_noisy(one, options.noise, generator(setting.seed, f"noise {n}")) for n, one in enumerate(found)]
    return found


def _of_images(setting: Setting, numbers: Sequence[str], streams: Iterable[torch.Generator]) -> list[Episode]:
    """Return tasks that tell two classes apart: those trained on have training images, the others test images."""
    options = setting.options
    if options.spread != 1 or options.family != SINUSOIDS:
        raise MetabenchError(
            "few_shot_regression: `spread` and `family` choose among analytic tasks, not among images: leave them out"
        )
    images = {
        "training": _by_class(setting.data.train_inputs, setting.data.train_targets, options),
        "test": _by_class(setting.data.test_inputs, setting.data.test_targets, options),
    }
    of = [images[number.split()[0]] for number in numbers]
    if not options.shared_queries:
        return [_pair(mine, options, stream) for mine, stream in zip(of, streams, strict=True)]
    classes = _two(len(of[0]), generator(setting.seed, "shared classes"))
    shared = {
        part: _pair(mine, options, generator(setting.seed, "shared queries"), classes) for part, mine in images.items()
    }
    return [
        _with_queries(_pair(mine, options, stream, classes), shared[number.split()[0]], stream)
        for number, mine, stream in zip(numbers, of, streams, strict=True)
    ]


def _in_the_plane() -> tuple[Episode, Episode]:
    """Return two tasks of one example each. With erf, and rates below one, the first-order kernel has an eigenvalue below zero."""
    points = torch.tensor([[1.9, -0.1], [1.7, -0.4], [-2.5, 1.0], [-1.8, 0.6]], dtype=torch.float64)
    labels = torch.tensor([[0.0], [1.0], [0.0], [-1.0]], dtype=torch.float64)
    first, second = (
        Episode(points[n : n + 1], labels[n : n + 1], points[n + 1 : n + 2], labels[n + 1 : n + 2]) for n in (0, 2)
    )
    return first, second


def _noisy(one: Episode, deviation: float, stream: torch.Generator) -> Episode:
    support, queries = (
        labels + deviation * torch.randn(labels.shape, generator=stream, dtype=torch.float64)
        for labels in (one.support_labels, one.query_labels)
    )
    return dataclasses.replace(one, support_labels=support, query_labels=queries)


def _sinusoid(options: Any, stream: torch.Generator) -> Episode:
    """Return y = A sin(x + phase), A from amplitude / 50 to amplitude. Finn et al. 2017, section 5.1, with A from 0.1 to 5 on [-5, 5]."""
    share, phase = torch.rand(2, generator=stream, dtype=torch.float64)
    share, phase = (0.5 + options.spread * (one - 0.5) for one in (share, phase))
    amplitude, phase = options.amplitude * (0.02 + 0.98 * share), math.pi * phase
    inputs = options.reach * (
        2 * torch.rand((options.shots + options.queries, 1), generator=stream, dtype=torch.float64) - 1
    )
    support = options.shots
    if options.shared_queries:
        inputs[support:, 0] = torch.linspace(-options.reach, options.reach, options.queries, dtype=torch.float64)
    labels = amplitude * torch.sin(inputs + phase)
    return Episode(inputs[:support], labels[:support], inputs[support:], labels[support:])


def _by_class(inputs: Any, targets: Any, options: Any) -> list[torch.Tensor]:
    """Return the images of each class, flattened, of norm sqrt(dimensions).

    Raises:
        MetabenchError: there are fewer than two classes, or a class has fewer images than a task takes.
    """
    flat = torch.as_tensor(inputs).flatten(1).to(torch.float64)
    flat = flat * flat.shape[1] ** 0.5 / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    labels = torch.as_tensor(targets)
    found = [flat[labels == label] for label in labels.unique()]
    least = min(map(len, found))
    if len(found) < 2 or least < options.shots + options.queries:
        raise MetabenchError(
            f"few_shot_regression: a task has two classes with {options.shots + options.queries} images each, and of {len(found)} classes "
            f"one has {least}"
        )
    return found


def _pair(
    images: Sequence[torch.Tensor], options: Any, stream: torch.Generator, classes: Sequence[int] = ()
) -> Episode:
    """Return a task that tells two classes apart, drawn if none are given: labels 1 and -1."""
    parts = []
    for label, place in zip((1.0, -1.0), classes or _two(len(images), stream), strict=True):
        chosen = images[place][torch.randperm(len(images[place]), generator=stream)[: options.shots + options.queries]]
        parts.append((chosen, torch.full((len(chosen), 1), label, dtype=torch.float64)))
    shots = options.shots
    support, queries = (
        [torch.cat(two) for two in zip(*((inputs[cut], labels[cut]) for inputs, labels in parts), strict=True)]
        for cut in (slice(shots), slice(shots, None))
    )
    return Episode(*support, *queries)


def _two(of: int, stream: torch.Generator) -> list[int]:
    return torch.randperm(of, generator=stream)[:2].tolist()


def _with_queries(one: Episode, queries: Episode, stream: torch.Generator) -> Episode:
    """Return a task with the queries of another, and with all labels of a sign that is drawn."""
    sign = 1 - 2 * float(torch.randint(2, (), generator=stream))
    return Episode(one.support, sign * one.support_labels, queries.queries, sign * queries.query_labels)
