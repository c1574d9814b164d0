"""Where searches run: arrays go there from the host, and come back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..porting.convert import convert


class Place(NamedTuple):
    """A backend, and a device of it; ``None`` is the backend's own choice.

    Example:
        >>> import numpy as np
        >>> from mrl.report.placing import Place
        >>> Place("numpy").moved(np.ones(2, np.float32))
        array([1., 1.], dtype=float32)
    """

    backend: str
    device: Any = None

    def moved(self, x: NDArray[Any]) -> Any:
        """An array of NumPy as one of the backend."""
        return x if self.backend == "numpy" else convert(np.ascontiguousarray(x), self.backend, device=self.device)

    def brought(self, array: Any) -> NDArray[Any]:
        """An array of the backend as one of NumPy."""
        return np.asarray(array if self.backend == "numpy" else convert(array, "numpy"))
