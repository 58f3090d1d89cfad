"""The benchmarks are no part of the package: they are found from the root of the repository."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that an installed adapass is not hidden by the checkout.
sys.path.append(str(Path(__file__).parents[2]))
