"""From the table of rows to tables, figures and the page. They are made again when the rows or the source that draws them change.

A suite may have no figure, and then an empty folder of them: hence the `mkdir`.
"""


rule tables:
    input:
        PLAN.results,
    output:
        report(
            directory(TABLES),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        LOGS / "tables.log",
    conda:
        "../envs/metabench.yaml"
    params:
        code_hash=lambda wildcards: report_hash((*SUITE.plugins, *SUITE.figures)),
        out=lambda wildcards, output: Path(output[0]).parent,
        n_cells=len(PLAN.cells),
        n_rows=PLAN.rows,
    message:
        "write the tables"
    shell:
        "metabench report {input:q} --out {params.out:q} --only tables > {log:q} 2>&1"


rule figures:
    input:
        results=PLAN.results,
        curves=PLAN.curves,
    output:
        report(
            directory(FIGURES),
            patterns=["{figure}.png"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        LOGS / "figures.log",
    conda:
        "../envs/metabench.yaml"
    params:
        code_hash=lambda wildcards: report_hash((*SUITE.plugins, *SUITE.figures)),
        out=lambda wildcards, output: Path(output[0]).parent,
        n_cells=len(PLAN.cells),
        n_rows=PLAN.rows,
    message:
        "draw the figures"
    shell:
        "mkdir -p {output:q} && metabench report {input.results:q} --out {params.out:q} --only figures > {log:q} 2>&1"


rule page:
    input:
        results=PLAN.results,
        curves=PLAN.curves,
    output:
        report(
            PAGE,
            caption="../report/page.rst",
            category="Page",
            labels={"content": "the whole report, one page"},
        ),
    log:
        LOGS / "page.log",
    conda:
        "../envs/metabench.yaml"
    params:
        code_hash=lambda wildcards: report_hash((*SUITE.plugins, *SUITE.figures)),
        out=lambda wildcards, output: Path(output[0]).parent,
        n_cells=len(PLAN.cells),
        n_rows=PLAN.rows,
    message:
        "write the page"
    shell:
        "metabench report {input.results:q} --out {params.out:q} --only page > {log:q} 2>&1"
