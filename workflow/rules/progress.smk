"""What a terminal shows of a run: each cell's title as it begins, then how many steps are done. The log file keeps the rest."""

import logging

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent


def is_news(record):
    """Tell whether a line of the log is more than the scheduler talking of itself."""
    chatter = (LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED)
    return (
        record.levelno > logging.INFO
        or getattr(record, "event", None) not in chatter
        and record.getMessage() != "Select jobs to execute..."
    )


if not workflow.output_settings.verbose:
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(is_news)
