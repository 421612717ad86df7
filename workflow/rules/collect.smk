"""One table of all rows, of the planned cells and no others, with the certificates of their methods."""


rule collect:
    input:
        rows=list(ROW_FILES),
        certificates=CERTIFICATES,
    output:
        parquet=report(
            RESULTS,
            caption="../report/results.rst",
            category="Results",
            labels={"content": "all rows", "format": "Parquet"},
        ),
        csv=report(
            RESULTS.with_suffix(".csv"),
            caption="../report/results.rst",
            category="Results",
            labels={"content": "all rows", "format": "CSV"},
        ),
    log:
        LOGS / "collect.log",
    conda:
        "../envs/metabench.yaml"
    params:
        suite_hash=hashlib.sha256(to_yaml(SUITE).encode()).hexdigest()[:12],
        suite=lambda wildcards, output: SUITE_FILE,
        cells=lambda wildcards, output: CELL_LIST,
        certificates=lambda wildcards, output: CERTIFICATE_LIST,
        n_cells=len(CELLS),
        n_rows=PLAN.rows,
    message:
        "collect {params.n_rows} rows of {params.n_cells} cells"
    shell:
        "metabench collect --cells {params.cells:q} --certificates {params.certificates:q} --suite {params.suite:q}"
        " --out {output.parquet:q} > {log:q} 2>&1"
