"""A sweep as a whole: launch it, mirror it to MLflow, show its progress, propose the next one.

The package can be called: `rfscale.run(sweep)` is `rfscale.run.interface.run`, since the name is its own already.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfscale.run.study import Ran


class _Callable(ModuleType):
    def __call__(self, *given: Any, **fields: Any) -> Ran:
        from rfscale.run.interface import run

        return run(*given, **fields)


sys.modules[__name__].__class__ = _Callable
