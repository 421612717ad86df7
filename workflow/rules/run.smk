"""Cells: every combination of problem, data set, size and method is one job, its seeds included.

A cell runs again when its spec, the source behind it or the version of the rows changed: they stand in `params`. `spec` and
`title` are computed from `output`, which keeps them out of that comparison. Whatever goes wrong inside a cell is a row; a job fails
only if it is killed or cannot write.
"""


rule run_cell:
    input:
        data=lambda wildcards: fetched_data(planned(wildcards)),
    output:
        rows=f"{CELL}.parquet",
    log:
        f"{CELL}.log",
    benchmark:
        f"{CELL}.benchmark.tsv"
    wildcard_constraints:
        problem="[^/]+",
        dataset="[^/]+",
        size="[^/]+",
        method="[^/]+",
        hash="[0-9a-f]{8}",
    retries: 1
    conda:
        "../envs/metabench.yaml"
    threads: lambda wildcards: planned(wildcards).threads
    resources:
        gpu=int(GPU),
        exclusive=int(EXCLUSIVE),
        # Twice the limit: the limit bounds one hypergradient, and its error is measured in double precision.
        mem_mb=lambda wildcards, attempt: attempt
        * (2048 + planned(wildcards).limit_bytes * 2 // 1024**2),
        runtime=lambda wildcards, attempt: attempt
        * (5 + round(planned(wildcards).limit_seconds / 60)),
    params:
        spec_hash=lambda wildcards: spec_hash(planned(wildcards)),
        code_hash=lambda wildcards: code_hash(planned(wildcards)),
        schema=SCHEMA_VERSION,
        spec=lambda wildcards, output: Path(output.rows).with_suffix(".json"),
        title=lambda wildcards, output: title(planned(wildcards)),
    message:
        "{params.title}"
    shell:
        "metabench run --spec {params.spec:q} --out {output.rows:q} > {log:q} 2>&1"
