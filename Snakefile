"""From a suite to its report: `snakemake --cores all` runs the suite of config/config.yaml.

Another suite: `--configfile config/suites/smoke.yaml`. One key: `--config seeds='[0, 1]'`, `--config limits='{seconds: 60}'`.
"""

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/progress.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/certify.smk"
include: "workflow/rules/run.smk"
include: "workflow/rules/batch.smk"
include: "workflow/rules/time.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/report.smk"


# Short, and one of them needs the network: not worth a place in a cluster's queue.
localrules:
    all,
    fetch_data,
    collect,
    tables,
    figures,
    page,


# Cells, certificates and times stand here too: the file of one that is gone would not be missed while the table made from it is there.
rule all:
    input:
        all_of(PLAN.made(PLAN.cells)),
        PLAN.certificates,
        [PLAN.times_file(group) for group in PLAN.groups],
        PLAN.results,
        # Of a shard there is no report: it is made of all, once they are merged.
        [] if SUITE.shard else [TABLES, FIGURES, PAGE],
    message:
        (
            f"the rows of shard {SUITE.shard} are in {PLAN.results}"
            if SUITE.shard
            else f"the report is {PAGE}"
        )


onstart:
    write_plan()


onsuccess:
    tell_outcome()
