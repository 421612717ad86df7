"""torch, imported at first use.

Methods and problems declare what they are beside their mathematics. `metabench list`, `metabench plan` and the Snakefile read
those declarations, and must not pay seconds for `import torch`. So the house writes `from metabench.core.lazy import torch` and
touches torch inside functions only; a test holds that no declaration loads it. Plugins may `import torch` as usual.
"""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING, Any


class LazyModule(types.ModuleType):
    """Stands for a module until the first attribute is asked for. It is not put into `sys.modules`."""

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, name)


if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

__all__ = ["LazyModule", "torch"]
