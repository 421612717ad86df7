"""The cells of the suite and where their files lie; everything that can be wrong is found here, before any job starts."""

import os
import sys
import time
from pathlib import Path

from snakemake.logging import logger

# The profile's came before Snakemake could look beside the Snakefile: from another checkout, if that is the one installed.
for name in [name for name in sys.modules if name.partition(".")[0] == "metabench"]:
    del sys.modules[name]

import metabench
from metabench.core.errors import MetabenchError
from metabench.results.certificate import CERTIFICATE_VERSION
from metabench.results.schema import SCHEMA_VERSION
from metabench.results.times import TIMES_VERSION
from metabench.results.told import told
from metabench.suite.cluster.checks import check_alone, refuse
from metabench.suite.cluster.request import Request
from metabench.suite.cluster.scheduler_requests import Requests
from metabench.suite.plan.code_hash import (
    certifier_hash,
    code_hash,
    method_hash,
    report_hash,
    timer_hash,
)
from metabench.suite.plan.jobs import Jobs
from metabench.suite.plan.labels import title
from metabench.suite.plan.plan import kept_plan, load_suite, plan
from metabench.suite.run.lock import RUN, run_identity
from metabench.suite.run.batch import MOST_BATCH_ATTEMPTS
from metabench.suite.run.lost import MOST_ATTEMPTS, attempts_file, times_lost
from metabench.suite.writable import check_writable


def stop(error):
    """End with the message of a user's mistake: a WorkflowError would print the lines of this file below it."""
    logger.error(f"Error: {error}")
    sys.exit(2)


def chosen_suite():
    """Return the suite of all --configfile together, else of config/config.yaml, with --config on top.

    A `configfile:` directive would merge the default suite into every other one, its experiments too.
    """
    default = Path(workflow.basedir, "config", "config.yaml")
    files = workflow.overwrite_configfiles or [default]
    return load_suite(files, workflow.config_settings.config_args or [])


def planned(wildcards):
    """Return the cell whose row file has these wildcards."""
    try:
        return JOBS.cell(**wildcards)
    except MetabenchError as error:
        stop(error)


def may_predict():
    """Tell whether this is the process that runs jobs: not a dry run, a summary, or a job of a cluster."""
    runs = workflow.executor_plugin is not None and not workflow.dryrun
    return workflow.is_main_process and runs


def cores():
    """Return the cores that jobs share; None on a cluster. In a job of SLURM those it was given: its step may not ask for more."""
    found = workflow.resource_settings.cores
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return (
        min(found, int(given))
        if found and given.isdigit() and not workflow.is_main_process
        else found
    )


def devices():
    """Return how many GPUs jobs share: the total of the resource."""
    total = dict(workflow.global_resources.items()).get("gpu")
    return int(total.value or 1) if total else 1


def all_of(files):
    """Return the files; none in a job of a cluster, which makes one: thousands of names take a second there."""
    return list(files) if workflow.is_main_process else []


def data_of(cells):
    """Return the marks of the cells' data sets that have to be fetched. Their age says nothing about the rows."""
    marks = filter(None, map(JOBS.data_mark, cells))
    return [ancient(mark) for mark in dict.fromkeys(marks)]


def preparations_of(cells):
    """Return the marks of what is prepared before the cells."""
    return list(
        dict.fromkeys(mark for cell in cells for mark in PLAN.preparation_marks(cell))
    )


def forget_marks():
    """Remove the marks of batches whose row files are gone. It is not in `params`: they would be others again in the next run."""
    for batch in PLAN.batches:
        mark = PLAN.batch_mark(batch)
        if mark.is_file() and not all(
            PLAN.row_file(cell).is_file() for cell in batch.cells
        ):
            mark.unlink()


def prepared_for(*cells):
    """Return the option that names the folder of what is prepared, where one of the cells needs any."""
    needed = any(PLAN.preparation_marks(cell) for cell in cells)
    return ["--prepared", PLAN.prepared] if needed else []


def write_plan():
    """Write what the jobs read. Snakemake calls this as `onstart`: never in a dry run, nor while another run is at work here."""
    try:
        JOBS.check(workflow.global_resources, workflow.resource_settings.max_threads)
        check_cluster()
        PLAN.write()
    except MetabenchError as error:
        stop(error)


def check_cluster():
    """Raise MetabenchError if a scheduler would refuse a job of this run, or let it wait for ever."""
    if not workflow.local_exec:
        requests = [
            Request.of(job.rule.name, dict(job.resources.items()), job.threads)
            for job in workflow.dag.needrun_jobs()
            if not (job.is_local or job.is_group())
        ]
        refuse(requests, workflow.executor_plugin.name, SUITE.device.value)
        for found in check_alone(requests, JOBS.alone):
            logger.warning(found.words)


def tell_outcome():
    """Say how the cells ended, what the certificates say and where the report is, if this run made it."""
    if SUITE.shard and PLAN.results.is_file():
        logger.info(
            f"\n{told(PLAN.results)}\nWith all shards: metabench collect --shard {PLAN.folder} --shard ... --out {PLAN.folder.parent}/results.parquet\n"
        )
    if PAGE.is_file() and PAGE.stat().st_mtime >= STARTED:
        logger.info(f"\n{told(PLAN.results)}\nReport: {PAGE}\n")


STARTED = time.time()

# In a job of a cluster none: the next attempt is another job, which may ask for more.
RETRIES = MOST_ATTEMPTS if workflow.is_main_process else 0

# Jobs call `metabench`: the one of this Python, whether or not its environment is activated, and the source that was planned with.
SOURCE = str(Path(metabench.__file__).parents[1])
for name, first in (("PATH", str(Path(sys.executable).parent)), ("PYTHONPATH", SOURCE)):
    os.environ[name] = os.pathsep.join(filter(None, (first, os.environ.get(name))))

# Jobs of a cluster inherit it.
if workflow.is_main_process:
    os.environ[RUN] = run_identity()

try:
    SUITE = chosen_suite()
    PLAN = None if workflow.is_main_process else kept_plan(SUITE)
    PLAN = PLAN or plan(SUITE)
    check_writable(PLAN.folder)
    CORES = cores()
    REQUESTS = Requests(PLAN, may_predict, CORES or 1)
    JOBS = Jobs(PLAN, *((CORES, devices()) if workflow.local_exec else (None,)))
    if workflow.is_main_process:
        forget_marks()
except MetabenchError as error:
    stop(error)

REPORT, LOGS = PLAN.folder / "report", PLAN.folder / "logs"
TABLES, FIGURES, PAGE = REPORT / "tables", REPORT / "figures", REPORT / "index.html"
CELL = f"{PLAN.folder}/cells/{{problem}}/{{dataset}}/{{size}}/{{method}}-{{hash}}"
BATCH = f"{PLAN.folder}/batches/{{batch}}"
TIMES = f"{PLAN.folder}/times/{{group}}"
CERTIFICATE = f"{PLAN.folder}/certificates/{{method}}"
