"""Cells: every combination of problem, data set, size and method is one job, its seeds included.

A cell runs again when its spec, the source behind it or the version of the rows changed: they stand in `params`. `specs`, `cell` and
`title` are computed from `output`, which keeps them out of that comparison. Whatever goes wrong inside a cell is a row. A job fails only
if it is killed or cannot write; an attempt goes on where the one before it was. After two that the cell itself ended, or four in all, one
more writes rows that say so, and where that was a mishap the next run tries the cell again: the number of mishaps is another one then.

The shell outlives a SIGTERM, which the cell gets too: it may save its run meanwhile.
"""


rule run_cell:
    input:
        lambda wildcards: data_of([planned(wildcards)]),
        lambda wildcards: preparations_of([planned(wildcards)]),
    output:
        rows=f"{CELL}.parquet",
    log:
        f"{CELL}.log",
    wildcard_constraints:
        problem="[^/]+",
        dataset="[^/]+",
        size="[^/]+",
        method="[^/]+",
        hash="[0-9a-f]{8}",
    retries: RETRIES
    conda:
        "../envs/metabench.yaml"
    threads: lambda wildcards: JOBS.cell_cores(planned(wildcards))
    resources:
        gpu=JOBS.gpus,
        # What is predicted, and no more than the limits allow: metabench/suite/cluster/scheduler_requests.py says how.
        mem_mb=lambda wildcards, attempt: REQUESTS.memory_mb(
            planned(wildcards), attempt
        ),
        runtime=lambda wildcards, attempt: REQUESTS.runtime_minutes(
            planned(wildcards), attempt
        ),
        attempt=lambda wildcards, attempt: attempt,
    params:
        lost=lambda wildcards: times_lost(PLAN.row_file(planned(wildcards))),
        spec_hash=lambda wildcards: planned(wildcards).spec_hash,
        code_hash=lambda wildcards: code_hash(planned(wildcards)),
        schema=SCHEMA_VERSION,
        specs=lambda wildcards, output: PLAN.specs,
        cell=lambda wildcards, output: planned(wildcards).name,
        title=lambda wildcards, output: title(planned(wildcards)),
        predictions=["--predictions", PLAN.predictions] if SUITE.predict else [],
        prepared=lambda wildcards: prepared_for(planned(wildcards)),
        attempts=lambda wildcards, output: attempts_file(Path(output.rows)),
    message:
        "{params.title}"
    shell:
        "trap : TERM; if [ {resources.attempt} = 1 ]; then : > {log:q}; fi; "
        "metabench run --spec {params.specs:q} --cell {params.cell:q} --out {output.rows:q} {params.predictions:q} {params.prepared:q} --memory {resources.mem_mb} --attempt {resources.attempt}"
        " >> {log:q} 2>&1 || {{ code=$?; echo exit $code >> {params.attempts:q}; exit $code; }}"
