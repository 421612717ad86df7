"""Files of arrays that are costly to compute: each says what it is of, and one that is damaged counts as missing."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from metabench.core.atomic import write_atomically
from metabench.core.errors import MetabenchError

if TYPE_CHECKING:
    import numpy as np


def write_arrays(path: Path, key: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name with the key that says what they are of, completely or not at all; raise MetabenchError where that fails."""
    import numpy as np

    def write(file: BinaryIO) -> None:
        np.savez(file, key=np.array(key), **arrays)

    write_atomically(path, write)


def read_arrays(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays of a file by name; None where there is none, or it is damaged, with a warning.

    Raises:
        MetabenchError: the file has another key.
    """
    import numpy as np

    if not path.exists():
        return None
    try:
        # Every member has a checksum: a file that is cut short or overwritten does not open.
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
            whose = str(found.pop("key"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        warnings.warn(f"'{path}' is damaged and is computed anew: {error}", stacklevel=2)
        return None
    if whose != key:
        raise MetabenchError(
            f"'{path}' has the hash {whose}, of other data or another architecture: expected {key}; move it away"
        )
    return found
