"""The version of the rows. Alone, so that a process can know it without pyarrow."""

SCHEMA_VERSION = 9
