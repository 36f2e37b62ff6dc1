"""The two private parts of Hydra that rlc needs, in one place.

Hydra has no public way to expand a sweep without launching it, nor to launch jobs that were expanded already
(https://github.com/hydra-ecosystem/hydra/issues/2673). Both are as they stand in Hydra 1.3, which pyproject.toml
asks for; `tests/rlc/test_plan.py` and `tests/rlc/test_grid.py` fail where they change.
"""

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

__all__ = ["BasicSweeper", "Callbacks"]

if not hydra.__version__.startswith("1.3."):
    raise ImportError(f"hydra-core {hydra.__version__}: rlc needs 1.3; pip install 'hydra-core>=1.3.8,<1.4'")
