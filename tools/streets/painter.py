"""A camera, the surfaces it sees, and the shapes to paint.

Everything is painted from back to front into one index buffer, which holds the number of the surface that each
pixel shows. Colour and label are both looked up from it, so the label always matches the drawing. Later effects
(haze, blur, noise) affect only the image. The world is in metres: x to the right, y up, z ahead; x = 0 is the
middle of the road.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from tools.streets.worlds import Range, Style

NEAR = 0.6  # metres: anything nearer to the camera is clipped
SMOOTH, ROUGH, LEAVES, STREAKS, CLOUDS = range(5)  # textures, see `grains`
TILE = 640  # their size in pixels


@lru_cache(maxsize=1)
def grains() -> np.ndarray:
    """The textures, float32 [5,TILE,TILE], mean 0, deviation 1: the same in every world, for every seed."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((5, TILE, TILE)).astype(np.float32)

    def blur(image: np.ndarray, x: float, y: float) -> np.ndarray:
        wide = np.pad(image, 128, mode="wrap")  # so that the tiles are seamless
        return unit(cv2.GaussianBlur(wide, (0, 0), sigmaX=x, sigmaY=y)[128:-128, 128:-128])

    def unit(image: np.ndarray) -> np.ndarray:
        return (image - image.mean()) / image.std()

    tiles = (
        blur(white[0], 12, 12) + 0.3 * unit(white[0]),
        unit(white[1]) + blur(white[1], 2, 2),
        np.tanh(4 * blur(white[2], 1.1, 1.1) - 2 * blur(white[2], 4, 4)),
        blur(white[3], 1, 14) + 0.5 * blur(white[3], 9, 2),
        blur(white[4], 4, 2) + 3 * blur(white[4], 12, 6) + 10 * blur(white[4], 40, 20),
    )
    return np.stack([unit(tile) for tile in tiles])


class Surface(NamedTuple):
    """Something that a pixel can show."""

    red: float
    green: float
    blue: float
    texture: int
    strength: float  # of the texture
    distance: float  # metres
    label: str


class Painter:
    """A camera in a street and the surfaces it sees.

    `index` int32 [H,W] is the number of each pixel's surface; `shade` uint8 [H,W] is 255 where there is a
    shadow on the ground. The street bends: x is shifted by `bend * z**2` at distance z.
    """

    def __init__(self, style: Style, width: int, height: int, rng: np.random.Generator) -> None:
        self.style, self.width, self.height, self.rng = style, width, height, rng
        pitch, yaw = np.radians(rng.uniform(*style.pitch)), np.radians(rng.normal(0, 3))
        ahead = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
        right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
        self.axes = np.stack([right, np.cross(ahead, right), ahead])  # [3,3]: right, up, ahead
        self.eye = np.array([0.0, rng.uniform(*style.height), 0.0])
        self.focal = width / 2 / np.tan(np.radians(rng.uniform(*style.view)) / 2)  # pixels
        self.bend = rng.normal(0, 2e-4)
        around, above = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.9)
        self.sun = np.array([np.cos(around) * np.cos(above), np.sin(above), np.sin(around) * np.cos(above)])
        self.index = np.zeros((height, width), np.int32)
        self.shade = np.zeros((height, width), np.uint8)
        self.surfaces: list[Surface] = []

    def pick(self, material: str) -> np.ndarray:
        """One of the material's colours, slightly varied: float [3]."""
        colours = self.style.materials[material]
        return np.array(colours[self.rng.integers(len(colours))]) * self.rng.normal(1, 0.06)

    def chance(self, name: str) -> bool:
        """Draw whether something with this probability (`Style.rates`) happens."""
        return bool(self.rng.random() < self.style.rates[name])

    def add(self, label: str, colour: Sequence[float], texture: int, strength: float, distance: float) -> int:
        """Add a surface and return its number."""
        strength *= self.style.texture
        self.surfaces.append(Surface(*colour, texture, strength, distance, label))
        return len(self.surfaces) - 1

    def light(self, face: np.ndarray) -> float:
        """The brightness of a face [n,3], from its normal."""
        (ax, ay, az), (bx, by, bz) = (face[1] - face[0]).tolist(), (face[2] - face[0]).tolist()
        normal = np.array([az * by - ay * bz, ax * bz - az * bx, ay * bx - ax * by])
        normal /= np.sqrt(normal @ normal) + 1e-9
        direct = max(0.0, float(normal @ self.sun))
        return self.style.ambient * (0.85 + 0.15 * normal[1]) + self.style.sun * direct

    def project(self, polygons: np.ndarray) -> tuple[list[np.ndarray], float]:
        """Polygons [k,n,3] -> corners of each in pixels, int32 [m,2] (m = 0: behind the camera), and the distance."""
        points = polygons - self.eye
        points[..., 0] += self.bend * polygons[..., 2] ** 2
        points = points @ self.axes.T
        distance = points[..., 2].min()
        if distance >= NEAR:
            return list(self.pixels(points)), distance
        return [self.pixels(clip(polygon)) for polygon in points], NEAR

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Points in camera coordinates [...,3] -> the nearest pixels, int32 [...,2]."""
        seen = points[..., :2] * ((self.focal, -self.focal) / points[..., 2:])
        return np.rint(seen + (self.width / 2, self.height / 2)).astype(np.int32)

    def fine(self, z: float, size: float) -> bool:
        """Whether a detail of `size` metres at z is larger than two pixels (of an image 512 pixels wide)."""
        return self.focal * size > 2 * z * self.width / 512

    def paint(self, polygons: np.ndarray, label: str, colour: np.ndarray, texture: int = SMOOTH,
              strength: float = 0.05) -> None:
        """Paint polygons [k,n,3], or one polygon [n,3]."""
        corners, distance = self.project(polygons if polygons.ndim == 3 else polygons[None])
        number = self.add(label, colour, texture, strength, distance)
        for corner in corners:
            if len(corner):
                cv2.fillPoly(self.index, [corner], number)

    def prism(self, base: np.ndarray, low: float, high: float, label: str, colour: np.ndarray,
              top: np.ndarray | None = None, texture: int = SMOOTH) -> list[np.ndarray | None]:
        """Paint the visible faces of a body that stands on `base` [4,2] (x, z; see `turned`) and tapers to `top`.

        Returns:
            the sides, each [4,3] (bottom left, bottom right, top right, top left), or None if hidden.
        """
        lower, upper = upright(base, low), upright(base if top is None else top, high)
        faces = [np.stack([lower[i], lower[i - 3], upper[i - 3], upper[i]]) for i in range(4)] + [upper]
        corners, distance = self.project(np.stack(faces))
        for i, corner in enumerate(corners):
            # In the image y points down, so the corners of a face seen from the front run the other way round.
            if len(corner) and cv2.contourArea(corner, oriented=True) < 0:
                number = self.add(label, colour * self.light(faces[i]), texture, 0.07, distance)
                cv2.fillPoly(self.index, [corner], number)
            else:
                faces[i] = None
        return faces[:4]

    def cast(self, footprint: np.ndarray, height: float) -> None:
        """Cast the shadow of a body that stands on `footprint` [n,2] (x, z): beneath it, and long in the sun."""
        offset = -self.sun[[0, 2]] * (height / self.sun[1]) if self.style.sun else np.array([0.0, -0.15])
        outline = cv2.convexHull(np.concatenate([footprint, footprint + offset]).astype(np.float32))[:, 0]
        corners, _ = self.project(upright(outline.astype(float), 0.0)[None])
        if len(corners[0]):
            cv2.fillPoly(self.shade, corners, 255)


def clip(polygon: np.ndarray) -> np.ndarray:
    """The part of a polygon [n,3] in camera coordinates that is at least NEAR away: [m,3], m = 0 if none."""
    out = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            out.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            out.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(out).reshape(-1, 3)


def panels(face: np.ndarray, cells: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    """Rectangles (left, right, bottom, top: fractions of the face) on a face [4,3]: [k,4,3]."""
    left, right, bottom, top = np.array(cells).T
    u = np.stack([left, right, right, left], axis=1)[..., None]  # [k,4,1]
    v = np.stack([bottom, bottom, top, top], axis=1)[..., None]
    return (1 - v) * ((1 - u) * face[0] + u * face[1]) + v * ((1 - u) * face[3] + u * face[2])


def upright(footprint: np.ndarray, y: float) -> np.ndarray:
    """Points [n,2] (x, z) at height y: [n,3]."""
    return np.stack([footprint[:, 0], np.full(len(footprint), y), footprint[:, 1]], axis=1)


def turned(x: float, z: float, yaw: float, length: Range, width: float) -> np.ndarray:
    """A rectangular footprint [4,2] that extends from length[0] to length[1] in front of (x, z), turned by yaw.

    The sides of a prism on it are: 0 the rear, 1 the right, 2 the front (far, at yaw 0), 3 the left.
    """
    (rear, front), half = length, width / 2
    corners = np.array([[-half, rear], [half, rear], [half, front], [-half, front]])
    return corners @ np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]) + (x, z)


def rectangle(x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    """A footprint [4,2] along the axes; its sides are the near, the right, the far and the left one."""
    return np.array([[x0, z0], [x1, z0], [x1, z1], [x0, z1]])


def flat(figure: np.ndarray, x: float, z: float, turn: float = 0.0) -> np.ndarray:
    """A flat figure [...,2] (right, up), standing at (x, z) and turned about its axis: [...,3]."""
    across, y = figure[..., 0], figure[..., 1]
    return np.stack([x + across * np.cos(turn), y, z + across * np.sin(turn)], axis=-1)


def bar(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    """A rectangular figure [4,2]."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def disc(x: float, y: float, radius: float, corners: int = 14) -> np.ndarray:
    """A round figure [corners,2] about (x, y)."""
    return circle(corners) * radius + (x, y)


@lru_cache
def circle(corners: int) -> np.ndarray:
    """A regular polygon of radius 1 about the origin, [corners,2]."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
