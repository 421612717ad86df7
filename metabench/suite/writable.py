"""Whether the folders that a run writes to, besides its results, are writable."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from metabench.core.errors import MetabenchError


def check_writable(folder: Path) -> None:
    """Raise MetabenchError if `folder` could not be made or written to; nothing is written, for a dry run asks, too."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise MetabenchError(f"cannot write results to '{folder}': '{there}' is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MetabenchError(f"cannot write results to '{folder}': no permission to write in '{there}'")


def check_user_cache() -> None:
    """End the process with one sentence if the user's cache folder, which Snakemake needs, cannot be created or written to.

    profiles/default calls it: anything later is too late.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(given) if given else Path.home() / ".cache"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        where = f"XDG_CACHE_HOME is '{given}'" if given else "it follows HOME, as XDG_CACHE_HOME is not set"
        sys.exit(
            f"the cache folder cannot be written to ({where}): {error}; set XDG_CACHE_HOME to a folder that can be, "
            'as in XDG_CACHE_HOME="$PWD/.cache" snakemake --cores all'
        )
