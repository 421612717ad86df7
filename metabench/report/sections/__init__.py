"""Sections of the report, one per file: values of `metabench.report.section.Section`."""
