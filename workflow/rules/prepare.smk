"""What is computed before cells, one job for each, and for each seed: what a problem shares between many, such as a Gram matrix, and the
parts of a kind of experiment, such as shared weights or the rounds of islands, some of which read others.

It is computed again when the source behind it changed, which is part of the file's name. What fails is said in the mark, and in the rows of
the cells that need it.
"""


rule prepare:
    input:
        lambda wildcards: data_of([PLAN.preparations[wildcards.preparation].cell]),
        lambda wildcards: [
            PLAN.preparation_mark(need)
            for need in PLAN.preparations[wildcards.preparation].needs
        ],
    output:
        mark=f"{PLAN.prepared}/{{preparation}}.json",
    log:
        f"{PLAN.prepared}/{{preparation}}.log",
    wildcard_constraints:
        preparation="[0-9a-f]{12}",
    retries: RETRIES
    conda:
        "../envs/metabench.yaml"
    threads: lambda wildcards: JOBS.preparation_cores(wildcards.preparation)
    resources:
        gpu=JOBS.gpus,
        mem_mb=lambda wildcards, attempt: REQUESTS.memory_mb(
            PLAN.preparations[wildcards.preparation].cell,
            attempt,
            PLAN.prepared / f"{wildcards.preparation}.json",
        ),
        runtime=lambda wildcards, attempt: REQUESTS.runtime_minutes(
            PLAN.preparations[wildcards.preparation].cell,
            attempt,
            PLAN.prepared / f"{wildcards.preparation}.json",
        ),
        attempt=lambda wildcards, attempt: attempt,
    params:
        lost=lambda wildcards: times_lost(
            PLAN.prepared / f"{wildcards.preparation}.json"
        ),
        attempts=lambda wildcards, output: attempts_file(Path(output.mark)),
        specs=lambda wildcards: PLAN.specs,
        cell=lambda wildcards: PLAN.preparations[wildcards.preparation].cell.name,
        seed=lambda wildcards: PLAN.preparations[wildcards.preparation].seed,
        part=lambda wildcards: [
            argument
            for name in [PLAN.preparations[wildcards.preparation].name]
            if name
            for argument in ("--part", name)
        ],
        title=lambda wildcards: PLAN.preparations[wildcards.preparation].title,
        folder=PLAN.prepared,
    message:
        "prepare {params.title}"
    shell:
        "if [ {resources.attempt} = 1 ]; then : > {log:q}; fi; "
        "metabench prepare --spec {params.specs:q} --cell {params.cell:q} --seed {params.seed} {params.part:q} --prepared {params.folder:q} --attempt {resources.attempt}"
        " >> {log:q} 2>&1 || {{ code=$?; echo exit $code >> {params.attempts:q}; exit $code; }}"
