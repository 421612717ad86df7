"""Data sets that do not ship with metabench."""


rule fetch_data:
    output:
        touch(PLAN.folder / "data" / "{dataset}.fetched"),
    log:
        LOGS / "fetch_data" / "{dataset}.log",
    retries: 2
    conda:
        "../envs/metabench.yaml"
    params:
        plugins=[f"--plugin={path}" for path in SUITE.plugins],
    message:
        "fetch {wildcards.dataset}"
    shell:
        "metabench fetch {wildcards.dataset:q} {params.plugins:q} > {log:q} 2>&1"
