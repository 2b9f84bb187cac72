"""Pictures: class colours, overlays, panels. Arrays in, arrays out."""

from collections.abc import Sequence

import cv2
import numpy as np

HEADING = 20  # height of a line of text in pixels
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def colour(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Label uint8 [H,W] and palette uint8 [256,3] -> uint8 [H,W,3]."""
    return palette[label]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """The label's colours over the image uint8 [H,W,3]; ignored pixels (255) show the image -> uint8 [H,W,3]."""
    mixed = cv2.addWeighted(image, 1 - opacity, palette[label], opacity, 0)
    return np.where((label == 255)[..., None], image, mixed)


def explained(image: np.ndarray, label: np.ndarray, palette: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The overlay, and below it a legend of the classes in the label -> uint8 [H+h,W,3]."""
    present = [c for c in np.unique(label) if c < len(names)]
    below = legend([names[c] for c in present], palette[present], image.shape[1])
    return np.vstack([overlay(image, label, palette), below])


def legend(names: Sequence[str], colours: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """A patch of each colour with its name, in lines of at most `width` pixels -> uint8 [h,width,3], on white."""
    zoom = max(1, width // 1024)  # large pictures are viewed at a smaller scale
    line, places, x, y = zoom * HEADING, [], 0, 0
    for name in names:
        size = line + cv2.getTextSize(name, FONT, zoom * SCALE, zoom)[0][0] + 8 * zoom
        if x and x + size > width:
            x, y = 0, y + line
        places.append((x, y))
        x += size
    sheet = np.full((y + line if places else 0, width, 3), 255, np.uint8)
    for name, colour_, (x, y) in zip(names, colours, places, strict=True):
        corners = (x + 3 * zoom, y + 4 * zoom), (x + line - 5 * zoom, y + line - 4 * zoom)
        cv2.rectangle(sheet, *corners, [int(v) for v in colour_], cv2.FILLED)
        _write(sheet, name, (x + line - 2 * zoom, y), zoom)
    return sheet


def _write(sheet: np.ndarray, text: str, corner: tuple[int, int], zoom: int) -> None:
    """Draw a line of black text below and right of the corner (x, y); OpenCV only knows ASCII."""
    place = corner[0] + 2 * zoom, corner[1] + (HEADING - 6) * zoom
    cv2.putText(sheet, text, place, FONT, zoom * SCALE, (0, 0, 0), zoom, cv2.LINE_AA)


def heat(values: np.ndarray) -> np.ndarray:
    """Values [H,W] in [0,1] -> uint8 [H,W,3], dark blue (0) to yellow (1)."""
    grey = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def panel(
    rows: Sequence[Sequence[np.ndarray]], size: tuple[int, int], gap: int = 4, headings: Sequence[str] = ()
) -> np.ndarray:
    """Arrange pictures uint8 [h,w,3] in rows, resized to one size, with white gaps -> uint8 [...,...,3].

    Args:
        rows: the pictures.
        size: maximum (H, W) of each; the first one keeps its aspect ratio.
        gap: pixels between pictures.
        headings: of the columns, in a line at the top; empty = no such line.
    """
    height, width = rows[0][0].shape[:2]
    factor = min(size[0] / height, size[1] / width)
    height, width = max(1, round(height * factor)), max(1, round(width * factor))
    columns, zoom = max(len(row) for row in rows), max(1, width // 256)
    top = zoom * HEADING if headings else 0
    sheet = np.full((top + len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for c, heading in enumerate(headings):
        cell = np.full((top, width, 3), 255, np.uint8)  # longer text is cut off
        _write(cell, heading, (0, 0), zoom)
        sheet[:top, c * (width + gap) : c * (width + gap) + width] = cell
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            y, x = top + r * (height + gap), c * (width + gap)
            sheet[y : y + height, x : x + width] = small
    return sheet
