"""Pictures: class colours, overlays, panels. Arrays in, arrays out."""

from collections.abc import Sequence

import cv2
import numpy as np


def colour(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Label uint8 [H,W] and palette uint8 [256,3] -> uint8 [H,W,3]."""
    return palette[label]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """The label's colours over the image uint8 [H,W,3]; ignored pixels (255) show the image -> uint8 [H,W,3]."""
    mixed = cv2.addWeighted(image, 1 - opacity, palette[label], opacity, 0)
    return np.where((label == 255)[..., None], image, mixed)


def heat(values: np.ndarray) -> np.ndarray:
    """Values [H,W] in [0,1] -> uint8 [H,W,3], dark blue (0) to yellow (1)."""
    grey = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def denormalise(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised float [3,H,W] -> uint8 [H,W,3]."""
    pixels = image.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)
    return (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def panel(rows: Sequence[Sequence[np.ndarray]], size: tuple[int, int], gap: int = 4) -> np.ndarray:
    """Pictures uint8 [h,w,3] in rows, each resized to `size` = (H,W), with white gaps -> uint8 [...,...,3]."""
    height, width = size
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            y, x = r * (height + gap), c * (width + gap)
            sheet[y : y + height, x : x + width] = small
    return sheet
