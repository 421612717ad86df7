#!/bin/sh
# How a job of SLURM stands, for Snakemake: success, failed or running. Where no command answers it counts as running, and is asked for again.
said=$(squeue --noheader --states=all --jobs="$1" --format=%T 2>&1 | head -n 1)
case $said in
*'Invalid job id'*)
    # squeue has forgotten it. Accounts know, where a cluster keeps any; they say 'CANCELLED by 1000'.
    said=$(sacct --noheader --allocations --parsable2 --jobs="$1" --format=State 2>/dev/null | head -n 1)
    said=${said:-FAILED}
    ;;
esac
case $said in
COMPLETED) echo success ;;
BOOT_FAIL | CANCELLED* | DEADLINE | FAILED | NODE_FAIL | OUT_OF_MEMORY | TIMEOUT) echo failed ;;
*) echo running ;;
esac
