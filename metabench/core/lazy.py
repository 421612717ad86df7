"""torch, imported at first use.

Methods and problems declare what they are in the same file as their mathematics. `metabench list`, `metabench plan` and the Snakefile
read those declarations, and must not spend seconds on `import torch`. So the package writes `from metabench.core.lazy import torch` and
uses torch only inside functions; a test checks that no declaration loads it. Plugins may `import torch` as usual.
"""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING, Any


class LazyModule(types.ModuleType):
    """Replaces a module until its first attribute is accessed. It is not put into `sys.modules`."""

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, name)


if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

__all__ = ["LazyModule", "torch"]
