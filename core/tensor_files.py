"""What torch's restricted reader (weights_only=True) may make beside tensors and plain values."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch


def numpy_scalars() -> AbstractContextManager[None]:
    """Let torch's restricted reader make NumPy scalars, by the names of NumPy 1 and 2."""
    make_scalar = np.float64(0).__reduce__()[0]

    def under(module: str) -> Callable[[np.dtype, bytes], np.generic]:
        def scalar(dtype: np.dtype, content: bytes) -> np.generic:
            return make_scalar(dtype, content)

        scalar.__module__, scalar.__qualname__ = module, "scalar"
        return scalar

    kinds = [type(np.dtype(code)) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")]
    scalars = [under("numpy.core.multiarray"), under("numpy._core.multiarray")]
    return torch.serialization.safe_globals([np.dtype, *kinds, *scalars])
