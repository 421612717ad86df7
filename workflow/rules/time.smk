"""Times: the cells of a setting side by side, each in its own process, in rounds, after all of them have their rows.

They are timed again when one of the cells ran again, when a cell joined or left, or when the source that times changed. A cell that fails
is no failure of the job. Where the job is lost, a last attempt writes a file that says so for every cell, so that there is a report.
"""


rule time_setting:
    input:
        rows=lambda wildcards: PLAN.made(JOBS.groups[wildcards.group].cells),
    output:
        times=f"{TIMES}.parquet",
    log:
        f"{TIMES}.log",
    wildcard_constraints:
        group="[^/]+",
    retries: RETRIES
    conda:
        "../envs/metabench.yaml"
    # The whole machine, so that no other job runs meanwhile, or its own cores and GPU: as `timing` says.
    threads: JOBS.group_cores(SUITE.threads)
    resources:
        gpu=JOBS.gpus,
        mem_mb=lambda wildcards, attempt: REQUESTS.group_memory_mb(
            JOBS.groups[wildcards.group], attempt
        ),
        runtime=lambda wildcards, attempt: REQUESTS.group_minutes(
            JOBS.groups[wildcards.group], attempt
        ),
        attempt=lambda wildcards, attempt: attempt,
    params:
        lost=lambda wildcards: times_lost(Path(f"{TIMES.format(**wildcards)}.parquet")),
        attempts=lambda wildcards, output: attempts_file(Path(output.times)),
        group=lambda wildcards, output: Path(output.times).with_suffix(".json"),
        group_hash=lambda wildcards: JOBS.groups[wildcards.group].hash,
        timer_hash=lambda wildcards: timer_hash(),
        version=TIMES_VERSION,
        prepared=lambda wildcards: prepared_for(*JOBS.groups[wildcards.group].cells),
        n_cells=lambda wildcards: len(JOBS.groups[wildcards.group].cells),
    message:
        "time {wildcards.group}, {params.n_cells} cells side by side"
    shell:
        "if [ {resources.attempt} = 1 ]; then : > {log:q}; fi; "
        "metabench time --group {params.group:q} --out {output.times:q} --memory {resources.mem_mb} {params.prepared:q} --attempt {resources.attempt}"
        " >> {log:q} 2>&1 || {{ code=$?; echo exit $code >> {params.attempts:q}; exit $code; }}"
