"""Certificates: each method of the suite is held to what it declares to be, in float64, before anything is said of its results.

A method is certified again when its source or the source that certifies changed: both stand in `params`. One that fails makes no failure
of the job: the report says so wherever the method stands. Where its job is lost, a last attempt writes a file without certificates,
so that there is a report.
"""


rule certify_method:
    output:
        rows=f"{CERTIFICATE}.parquet",
    log:
        f"{CERTIFICATE}.log",
    wildcard_constraints:
        method="[^/]+",
    retries: RETRIES
    conda:
        "../envs/metabench.yaml"
    threads: 1
    resources:
        mem_mb=4096,
        runtime=30,
        attempt=lambda wildcards, attempt: attempt,
    params:
        lost=lambda wildcards: times_lost(
            Path(f"{CERTIFICATE.format(**wildcards)}.parquet")
        ),
        attempts=lambda wildcards, output: attempts_file(Path(output.rows)),
        method_hash=lambda wildcards: method_hash(wildcards.method, SUITE.plugins),
        certify_hash=lambda wildcards: certifier_hash(),
        version=CERTIFICATE_VERSION,
        kernels=SUITE.kernels.value,
        plugins=lambda wildcards, output: [
            argument for plugin in SUITE.plugins for argument in ("--plugin", plugin)
        ],
    message:
        "certify {wildcards.method}"
    shell:
        "metabench certify --method {wildcards.method:q} {params.plugins:q} --kernels {params.kernels} --out {output.rows:q} --report-only"
        " --attempt {resources.attempt} > {log:q} 2>&1"
        " || {{ code=$?; echo exit $code >> {params.attempts:q}; exit $code; }}"
