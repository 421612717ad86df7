"""One table of all rows, of the planned cells and no others, with the certificates of their methods, one of all curves and one of all turns."""


rule collect:
    input:
        rows=all_of(PLAN.made(PLAN.cells)),
        certificates=PLAN.certificates,
        times=[PLAN.times_file(group) for group in PLAN.groups],
    output:
        parquet=report(
            PLAN.results,
            caption="../report/results.rst",
            category="Results",
            labels={"content": "all rows", "format": "Parquet"},
        ),
        csv=report(
            PLAN.results.with_suffix(".csv"),
            caption="../report/results.rst",
            category="Results",
            labels={"content": "all rows", "format": "CSV"},
        ),
        curves=report(
            PLAN.curves,
            caption="../report/curves.rst",
            category="Results",
            labels={"content": "all curves", "format": "Parquet"},
        ),
        # Large: it would make Snakemake's own report slow to open.
        curves_csv=PLAN.curves.with_suffix(".csv"),
        times=PLAN.times,
    log:
        LOGS / "collect.log",
    conda:
        "../envs/metabench.yaml"
    params:
        suite_hash=PLAN.suite_hash,
        suite=lambda wildcards, output: PLAN.suite_file,
        cells=lambda wildcards, output: PLAN.cell_list,
        certificates=lambda wildcards, output: PLAN.certificate_list,
        times=lambda wildcards, output: PLAN.times_list,
        kept=lambda wildcards, output: PLAN.folder / "collected",
        n_cells=len(PLAN.cells),
        n_rows=PLAN.rows,
    message:
        "collect {params.n_rows} rows of {params.n_cells} cells"
    shell:
        "metabench collect --cells {params.cells:q} --certificates {params.certificates:q} --times {params.times:q}"
        " --suite {params.suite:q} --kept {params.kept:q} --out {output.parquet:q} > {log:q} 2>&1"
