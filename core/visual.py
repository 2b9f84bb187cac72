"""Pictures: class colours, overlays, panels. Arrays in, arrays out."""

from collections.abc import Sequence

import cv2
import numpy as np

HEADING = 20  # pixels of a line of text
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def colour(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Label uint8 [H,W] and palette uint8 [256,3] -> uint8 [H,W,3]."""
    return palette[label]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """The label's colours over the image uint8 [H,W,3]; ignored pixels (255) show the image -> uint8 [H,W,3]."""
    mixed = cv2.addWeighted(image, 1 - opacity, palette[label], opacity, 0)
    return np.where((label == 255)[..., None], image, mixed)


def legend(names: Sequence[str], colours: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """A patch of each colour with its name, in lines of at most `width` pixels -> uint8 [h,width,3], white."""
    places, x, y = [], 0, 0
    for name in names:
        size = HEADING + cv2.getTextSize(name, FONT, SCALE, 1)[0][0] + 8
        if x and x + size > width:
            x, y = 0, y + HEADING
        places.append((x, y))
        x += size
    sheet = np.full((y + HEADING if places else 0, width, 3), 255, np.uint8)
    for name, colour_, (x, y) in zip(names, colours, places, strict=True):
        cv2.rectangle(sheet, (x + 3, y + 4), (x + HEADING - 5, y + HEADING - 4), [int(v) for v in colour_], cv2.FILLED)
        _write(sheet, name, (x + HEADING - 2, y))
    return sheet


def _write(sheet: np.ndarray, text: str, corner: tuple[int, int]) -> None:
    """A line of black text below and right of the corner (x, y); drawn by OpenCV, which knows ASCII alone."""
    place = corner[0] + 2, corner[1] + HEADING - 6
    cv2.putText(sheet, text, place, FONT, SCALE, (0, 0, 0), 1, cv2.LINE_AA)


def heat(values: np.ndarray) -> np.ndarray:
    """Values [H,W] in [0,1] -> uint8 [H,W,3], dark blue (0) to yellow (1)."""
    grey = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def panel(
    rows: Sequence[Sequence[np.ndarray]], size: tuple[int, int], gap: int = 4, headings: Sequence[str] = ()
) -> np.ndarray:
    """Pictures uint8 [h,w,3] in rows, each resized to `size` = (H,W), with white gaps -> uint8 [...,...,3].

    Args:
        rows: the pictures.
        size: of each.
        gap: pixels between two.
        headings: of the columns, in a line of their own at the top; none = no such line.
    """
    height, width = size
    columns, top = max(len(row) for row in rows), HEADING if headings else 0
    sheet = np.full((top + len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for c, heading in enumerate(headings):
        cell = np.full((top, width, 3), 255, np.uint8)  # what is longer is cut off
        _write(cell, heading, (0, 0))
        sheet[:top, c * (width + gap) : c * (width + gap) + width] = cell
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            y, x = top + r * (height + gap), c * (width + gap)
            sheet[y : y + height, x : x + width] = small
    return sheet
