"""What each cell is predicted to need, before any is run: one job for the whole suite.

It runs again when a cell, the source behind one or torch changed: their hash stands in `params`. What the file held before and still
counts is kept, so an edited method is predicted again and no other. No cell waits for a file that is merely newer, or runs again for it.
"""


rule predict:
    input:
        data=fetched_data(PLAN.cells),
    output:
        update(PREDICTIONS),
    log:
        LOGS / "predict.log",
    retries: 1
    conda:
        "../envs/metabench.yaml"
    threads: 1
    resources:
        # It would disturb the times of a cell beside it.
        exclusive=int(EXCLUSIVE),
        # Tensors without storage: data sets and the traces of the largest cell take the most.
        mem_mb=lambda wildcards, attempt: attempt * 4096,
        runtime=lambda wildcards, attempt: attempt * 60,
    params:
        plan_hash=plan_hash() if SUITE.predict else "",
        version=PREDICTIONS_VERSION,
        suite=lambda wildcards, output: SUITE_FILE,
        n_cells=lambda wildcards, output: len(CELLS),
    message:
        "predict {params.n_cells} cells"
    shell:
        "metabench predict {params.suite:q} --out {output:q} > {log:q} 2>&1"
