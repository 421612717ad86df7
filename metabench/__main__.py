"""`python -m metabench` is `metabench`."""

from metabench.cli import main

main()
