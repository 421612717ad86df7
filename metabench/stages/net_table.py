"""Tables of nets: every net of a space trained from nothing, and what the table says of its nets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metabench.core.atomic import write_bytes_atomically
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.options import changed
from metabench.data import card
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable, decode, encode
from metabench.models.spaces import space
from metabench.problems.few_shot import FewShot
from metabench.results import net_tables as names
from metabench.search.agreement import additive, of_domains, of_itself
from metabench.search.stored import shipped, unlike
from metabench.search.table_builder import META, Builder, TableSettings, shards
from metabench.stages.subject import Row, Subject
from metabench.tasks.joint import Joint


def prepare(subject: Subject, part: str) -> None:
    """Train the nets of one job, or put the table together from those of all; what is there already stays.

    Raises:
        MetabenchError: the problem is not `few_shot` with the size 'subnet', or the method has options of its own; or shards are missing.
    """
    builder, options = Builder(_settings(subject)), subject.kind_options
    for number in range(options.jobs):
        if part in (names.shards_part(number), names.TABLE_PART):
            _train(subject, builder, number, subject.prepared[names.shards_part(number)])
    if part == names.TABLE_PART:
        folders = [subject.prepared[names.shards_part(number)] for number in range(options.jobs)]
        write_bytes_atomically(subject.prepared[part] / names.TABLE_FILE, encode(builder.collected(*folders)))


def net_table(subject: Subject) -> Iterator[Row]:
    """Yield accuracies over nets, how they stand to the nearest pixels, and how far rankings of the table agree with each other.

    Quality is the test accuracy of the net that is best on validation tasks.

    Raises:
        MetabenchError: as `prepare`.
    """
    if subject.kind_options.way == names.SHIPPED:
        yield _columns(subject, _shipped(subject), card(names.SHIPPED_TABLE).files[0].size)
        return
    path = subject.prepared.get(names.TABLE_PART, Path()) / names.TABLE_FILE
    if path.is_file():
        content = path.read_bytes()
        table = decode(content, str(path))
        yield {"message": f"the table: {path}"}
    else:
        builder = Builder(_settings(subject))
        with tempfile.TemporaryDirectory() as own:
            for number in range(subject.kind_options.jobs):
                _train(subject, builder, number, Path(own))
            table = builder.collected(Path(own))
        content = encode(table)
    yield _columns(subject, table, len(content))


def _shipped(subject: Subject) -> NetTable:
    """Return the table that ships; raise MetabenchError if it is not of the problem's nets, tasks and adaptation."""
    problem, stored = _problem(subject), shipped()
    if stored is None:
        raise MetabenchError("kind 'net_table': the table that ships is left out of this installation")
    if other := unlike(stored, problem, subject.dataset, adapting=True):
        raise MetabenchError(f"kind 'net_table': the table that ships is of {other}; make one with `way: joint` or `meta`")
    return stored


def _columns(subject: Subject, table: NetTable, size: int) -> Row:
    found = _summary(table, size)
    return {
        "quality": found[names.CHOSEN],
        "metrics": {subject.problem.card.metrics[0].name: found[names.CHOSEN]},
        "meta_summary": found,
        "curves": {names.STEPS: _curve(table)},
    }


def _problem(subject: Subject) -> FewShot:
    problem = subject.problem
    if not isinstance(problem, FewShot) or problem.setting.size != "subnet":
        raise MetabenchError(
            "kind 'net_table' needs the problem few_shot with the size 'subnet': the nets are of its option `space`"
        )
    return problem


def _settings(subject: Subject) -> TableSettings:
    problem, options = _problem(subject), subject.kind_options
    if changed(subject.options):
        raise MetabenchError("kind 'net_table': a table is made by a method with its default options")
    own = changed(problem.setting.options)
    for taken in ("space", "architecture"):
        own.pop(taken, None)
    numbers = [tuple(map(int, text.split(","))) for text in (options.training_seeds, options.steps)]
    meta = {"method": subject.method.name, "outer_steps": max(1, subject.outer_steps)} if options.way == META else {}
    return TableSettings(
        space=problem.setting.options.space,
        dataset=subject.dataset,
        seeds=numbers[0],
        way=options.way,
        joint=Joint(options.joint_steps, options.joint_batch, options.joint_learning_rate),
        **meta,
        inner_steps=problem.setting.inner_steps,
        steps=numbers[1],
        tasks=(options.validation, options.test),
        options=own,
    )


def _train(subject: Subject, builder: Builder, number: int, folder: Path) -> None:
    mine = shards(builder.settings, (number, subject.kind_options.jobs))
    for done, (net, seed) in enumerate(mine):
        subject.tell(f"nets, job {number + 1} of {subject.kind_options.jobs}", done, len(mine))
        builder.shard(net, seed, folder)


def _summary(table: NetTable, size: int) -> dict[str, float]:
    test, validation = table.accuracies(TEST), table.accuracies(VALIDATION)
    best = np.sort(test)[::-1][: max(1, len(test) // 4)]
    pixels = table.pixel_accuracy(TEST)
    found = {
        names.NETS: len(test),
        names.BYTES: size,
        names.MEAN: test.mean(),
        names.SPREAD: test.std(),
        names.BEST: test.max(),
        names.CHOSEN: test[int(validation.argmax())],
        names.PIXELS: pixels,
        names.QUARTER: best.mean() - pixels,
        names.SECONDS: table.costs["seconds"].mean(),
        names.ADDITIVE: additive(table, space(table.about["space"]).one_hot(table.nets)),
        names.SEEDS: len(table.seeds),
        names.VALIDATION_COUNT: len(table.pixels[VALIDATION]),
        names.TEST_COUNT: len(table.pixels[TEST]),
    }
    for one in of_itself(table):
        found |= one.named()
    for place in of_domains(table):
        numbers = ((names.GAIN, place.gain), (names.GAIN_HALF, place.half), (names.TASKS, place.tasks))
        found |= {names.of_domain(place.domain, place.net, name): value for name, value in numbers}
    return {name: float(value) for name, value in found.items()}


def _curve(table: NetTable) -> Curve:
    """Return the test accuracy after each counted number of steps: the mean over nets, with the quartiles."""
    values = [table.accuracies(TEST, steps=steps) for steps in table.steps]
    low, high = (tuple(float(np.quantile(one, q)) for one in values) for q in (0.25, 0.75))
    means = tuple(float(one.mean()) for one in values)
    return Curve(table.steps, means, "%", "steps of adaptation", low, high, len(table.nets))
