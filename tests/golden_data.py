"""Reading the stored numbers of the published method, tests/golden/."""

import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """Arrays of NAME.npz as tensors (or as they are, for `array`) and the contents of NAME.json."""

    def __init__(self, name: str) -> None:
        self.arrays = np.load(GOLDEN / f"{name}.npz") if (GOLDEN / f"{name}.npz").exists() else {}
        path = GOLDEN / f"{name}.json"
        self.json = json.loads(path.read_text()) if path.exists() else {}

    def array(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def __contains__(self, key: str) -> bool:
        return key in self.arrays
