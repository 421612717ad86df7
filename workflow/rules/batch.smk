"""Batches: where a suite asks for them, a job runs many cells, one after another. What a job makes is the mark that all have their rows.

The row files are none of Snakemake's: it would remove them before the job runs again, and the cells of a batch that are done stay as they
are. A job runs again when one of its cells has to, or lacks its row file, and runs only those.
"""


rule run_batch:
    input:
        lambda wildcards: data_of(JOBS.batches[wildcards.batch].cells),
        lambda wildcards: preparations_of(JOBS.batches[wildcards.batch].cells),
    output:
        mark=f"{BATCH}.json",
    log:
        f"{BATCH}.log",
    wildcard_constraints:
        batch="[^/]+",
    retries: RETRIES and MOST_BATCH_ATTEMPTS
    conda:
        "../envs/metabench.yaml"
    threads: lambda wildcards: JOBS.batch_cores(JOBS.batches[wildcards.batch])
    resources:
        gpu=JOBS.gpus,
        mem_mb=lambda wildcards, attempt: REQUESTS.batch_memory_mb(
            JOBS.batches[wildcards.batch], attempt
        ),
        runtime=lambda wildcards, attempt: REQUESTS.batch_minutes(
            JOBS.batches[wildcards.batch], attempt
        ),
        attempt=lambda wildcards, attempt: attempt,
    params:
        lost=lambda wildcards: sum(
            times_lost(PLAN.row_file(cell))
            for cell in JOBS.batches[wildcards.batch].cells
        ),
        spec_hash=lambda wildcards: [
            cell.spec_hash for cell in JOBS.batches[wildcards.batch].cells
        ],
        code_hash=lambda wildcards: [
            code_hash(cell) for cell in JOBS.batches[wildcards.batch].cells
        ],
        schema=SCHEMA_VERSION,
        specs=lambda wildcards, output: PLAN.specs,
        predictions=["--predictions", PLAN.predictions] if SUITE.predict else [],
        prepared=lambda wildcards: prepared_for(*JOBS.batches[wildcards.batch].cells),
        attempts=lambda wildcards, output: attempts_file(Path(output.mark)),
        n_cells=lambda wildcards: len(JOBS.batches[wildcards.batch].cells),
    message:
        "run batch {wildcards.batch}, {params.n_cells} cells one after another"
    shell:
        "trap : TERM; if [ {resources.attempt} = 1 ]; then : > {log:q}; fi; "
        "metabench batch --specs {params.specs:q} --name {wildcards.batch:q} --out {output.mark:q} {params.predictions:q} {params.prepared:q} --memory {resources.mem_mb} --attempt {resources.attempt}"
        " >> {log:q} 2>&1 || {{ code=$?; echo exit $code >> {params.attempts:q}; exit $code; }}"
