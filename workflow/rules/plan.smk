"""The cells of the suite and where their files lie; everything that can be wrong is found here, before any job starts."""

import csv
import functools
import hashlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

from pyarrow import ArrowException, parquet
from snakemake.common.configfile import load_configfile
from snakemake.logging import logger
from snakemake.utils import update_config

import metabench
from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.data import card
from metabench.problems import problem
from metabench.results.atomic import write_text_atomically
from metabench.results.certificate import CERTIFICATE_VERSION
from metabench.results.schema import SCHEMA_VERSION
from metabench.results.store import VERSION_KEY, read_metadata
from metabench.suite.plan.code_hash import Sources, code_hash, method_hash
from metabench.suite.config.load import to_yaml
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.predict.predictions import (
    PREDICTIONS_VERSION,
    Predictions,
    kept_predictions,
    key_of,
    read_predictions,
)
from metabench.suite.predict.scheduler_requests import memory_mb, runtime_minutes
from metabench.suite.plan.labels import label, method_of, options_text


def stop(error):
    """End with the message of a user's mistake: a WorkflowError would print the lines of this file below it."""
    logger.error(f"Error: {error}")
    sys.exit(2)


def chosen_suite():
    """Return the suite of --configfile, else of config/config.yaml, with --config on top.

    A `configfile:` directive would merge the default suite into every other one, its experiments too.
    """
    given = workflow.overwrite_configfiles
    source = Path(workflow.basedir, "config", "config.yaml")
    if len(given) == 1:
        source = given[0]
    elif given:
        source = {}
        for path in given:
            update_config(source, load_configfile(path))
    return load_suite(source, workflow.config_settings.config_args or [])


def check_writable(folder):
    """Raise MetabenchError if `folder` could not be made or written to; nothing is written, for this happens in a dry run too."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise MetabenchError(
            f"cannot write results to '{folder}': '{there}' is a file, not a folder"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise MetabenchError(
            f"cannot write results to '{folder}': no permission to write in '{there}'"
        )


def planned(wildcards):
    """Return the cell whose row file has these wildcards; raise if the suite has no such cell."""
    key = f"{wildcards.problem}/{wildcards.dataset}/{wildcards.size}/{wildcards.method}-{wildcards.hash}"
    if key not in CELLS:
        stop(
            f"the suite '{SUITE.name}' has no cell {key}: `metabench plan` lists its cells"
        )
    return CELLS[key]


def fetched_data(cells):
    """Return the mark of each data set of the cells that has to be fetched. Its age says nothing about the rows."""
    names = dict.fromkeys(cell.dataset for cell in cells)
    return [
        ancient(PLAN.folder / "data" / f"{name}.fetched")
        for name in names
        if card(name).fetched
    ]


def predictions_in(files):
    """Return what the file of predictions says, if there is one among a job's inputs.

    Where it is yet to be made, Snakemake takes the FileNotFoundError to mean that what is computed from it is to be determined.
    """
    if not files:
        return Predictions()
    (path,) = files
    return _predictions(path, Path(path).stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _predictions(path, changed):
    return read_predictions(Path(path))


def plan_hash():
    """Return twelve hexadecimal digits over all that the predictions depend on: which cells, by which source, with which torch."""
    keys = sorted(key_of(cell) for cell in PLAN.cells)
    return hashlib.sha256(repr(keys).encode()).hexdigest()[:12]


def predictions_for(cell):
    """Return the file of predictions as an input whose age says nothing about the rows, where the cell has rows that are its own.

    Behind a job that is to run, Snakemake (9.27) looks at an ancient input and at no other reason to run: not at a changed parameter or a
    missing output. So a cell that has to run anyway waits for the file as for any other.
    """
    if not SUITE.predict:
        return []
    return [ancient(PREDICTIONS) if PREDICTED or is_made(cell) else PREDICTIONS]


def is_made(cell):
    """Tell whether the cell's rows are there, of this schema, of this spec and of this source."""
    rows = PLAN.row_file(cell)
    spec = rows.with_suffix(".json")
    try:
        if spec.read_bytes() != cell.to_json().encode():
            return False
        table = parquet.read_table(rows, columns=["code_hash"])
    except (OSError, ArrowException):
        return False
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"").decode()
    return version == str(SCHEMA_VERSION) and set(table["code_hash"].to_pylist()) == {
        code_hash(cell)
    }


def is_predicted(planned):
    """Tell whether the plan's file of predictions is of its cells as they are now, so that it need not be made."""
    return kept_predictions(planned.predictions).are_of(planned.cells)


def spec_hash(cell):
    """Return twelve hexadecimal digits over the whole spec: its limits, seeds and measurement, which the name leaves out, too."""
    return hashlib.sha256(cell.to_json().encode()).hexdigest()[:12]


def title(cell):
    """Return the line that says which cell runs; options and numbers of steps are named where they are not the default."""
    declared = problem(cell.problem).card
    options = options_text(build(declared.options, cell.problem_options, cell.problem))
    steps = cell.inner_steps
    parts = (
        f"{cell.problem}/{cell.dataset}/{cell.size}",
        options,
        label(
            cell.method,
            build(method_of(cell).options, cell.method_options, cell.method),
        ),
        "" if steps == declared.inner_steps else f"{steps} inner steps",
        "1 seed" if len(cell.seeds) == 1 else f"{len(cell.seeds)} seeds",
    )
    return " · ".join(filter(None, parts))


def certify_code():
    """Return twelve hexadecimal digits over the source that certifies methods; no method is part of it."""
    sources = Sources(Path(metabench.__file__).parent)
    folder = sources.root / "certify"
    names = [
        path.relative_to(sources.root).with_suffix("").parts
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    ]
    modules = [".".join(("metabench", *name)) for name in names]
    return sources.digest(sources.closure(["metabench.certify", *modules]))


def report_code():
    """Return twelve hexadecimal digits over every file that makes the report, its templates included."""
    digest = hashlib.sha256()
    for part in ("report", "results"):
        for path in sorted(Path(metabench.__file__).with_name(part).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def write_plan():
    """Write what the jobs read: the spec of each cell, the list of row files, the suite. Files that already say so are left alone.

    Snakemake calls this as `onstart`: never in a dry run, and when no other run can be at work in this folder.
    """
    undeclared = sorted(NEEDED_TOTALS - set(workflow.global_resources))
    if workflow.local_exec and undeclared:
        stop(
            "without a total these resources limit nothing, and cells would run side by side: "
            f"add to --resources: {' '.join(f'{name}=1' for name in undeclared)}"
        )
    texts = {
        row_file.with_suffix(".json"): cell.to_json()
        for row_file, cell in ROW_FILES.items()
    }
    texts[SUITE_FILE] = to_yaml(SUITE)
    texts[CELL_LIST] = "".join(f"{row_file}\n" for row_file in ROW_FILES)
    texts[CERTIFICATE_LIST] = "".join(f"{path}\n" for path in CERTIFICATES)
    try:
        for path, text in texts.items():
            if not path.is_file() or path.read_bytes() != text.encode():
                write_text_atomically(path, text)
    except MetabenchError as error:
        stop(error)


def tell_outcome():
    """Say how the cells ended, what the certificates say and where the report is, if this run made it."""
    if not PAGE.is_file() or PAGE.stat().st_mtime < STARTED:
        return
    with RESULTS.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        statuses = Counter(row["status"] for row in csv.DictReader(file))
    counts = ", ".join(
        f"{number} {status}" for status, number in statuses.most_common()
    )
    verdicts = Counter(
        certificate["verdict"]
        for certificate in read_metadata(RESULTS).certificates.values()
    )
    certified = ", ".join(
        f"{number} {verdict}" for verdict, number in verdicts.most_common()
    )
    logger.info(
        f"\n{len(CELLS)} cells, {statuses.total()} rows: {counts or 'none'}\n"
        f"Certificates: {certified or 'none'}\nReport: {PAGE}\n"
    )


STARTED = time.time()

# Jobs call `metabench`: the one of this Python, whether or not its environment is activated, and the source that was planned with.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    PYTHONPATH=os.pathsep.join(
        filter(
            None,
            (
                str(Path(metabench.__file__).parents[1]),
                os.environ.get("PYTHONPATH"),
            ),
        )
    ),
)

try:
    SUITE = chosen_suite()
    PLAN = plan(SUITE)
    check_writable(PLAN.folder)
    PREDICTED = SUITE.predict and is_predicted(PLAN)
except MetabenchError as error:
    stop(error)

ROW_FILES = {PLAN.row_file(cell): cell for cell in PLAN.cells}
CELLS = {f"{cell.folder}/{cell.stem}": cell for cell in PLAN.cells}
SUITE_FILE = PLAN.folder / "suite.yaml"
CELL_LIST = PLAN.folder / "cells.txt"
CERTIFICATE_LIST = PLAN.folder / "certificates.txt"
RESULTS = PLAN.folder / "results.parquet"
REPORT = PLAN.folder / "report"
TABLES = REPORT / "tables"
FIGURES = REPORT / "figures"
PAGE = REPORT / "index.html"
LOGS = PLAN.folder / "logs"
PREDICTIONS = PLAN.predictions
CERTIFICATE = f"{PLAN.folder}/certificates/{{method}}"
CERTIFICATES = [
    Path(f"{CERTIFICATE.format(method=method)}.parquet")
    for method in dict.fromkeys(cell.method for cell in PLAN.cells)
    if SUITE.certify
]
CELL = f"{PLAN.folder}/cells/{{problem}}/{{dataset}}/{{size}}/{{method}}-{{hash}}"

EXCLUSIVE = SUITE.timing.value == "exclusive"
GPU = SUITE.device.value == "cuda"
NEEDED_TOTALS = {
    name for name, needed in (("exclusive", EXCLUSIVE), ("gpu", GPU)) if needed
}
