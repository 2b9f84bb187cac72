"""Render a style as an image and its label: the ground, the objects on it, light and haze, the camera."""

import cv2
import numpy as np

from datasets.labels import CITYSCAPES
from tools.streets.painter import CLOUDS, ROUGH, SMOOTH, TILE, Painter, grains, rectangle, upright
from tools.streets.scene import LANE, Street, furnish
from tools.streets.worlds import Style

FAR = 400.0  # metres: the ground ends there
LABEL_IDS = dict(zip(CITYSCAPES.names, CITYSCAPES.to_raw().tolist(), strict=False))
LABEL_IDS |= {"ego vehicle": 1, "static": 4}  # not training classes
# The first rows of every scene's table, in the order of Street.surfaces; 0 is the sky.
GROUND = (("road", "asphalt", 0.08), ("road", "marking", 0.12), ("sidewalk", "kerb", 0.05),
          ("sidewalk", "pavement", 0.08), ("terrain", "grass", 0.16))  # fmt: skip


def render(style: Style, width: int, height: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One scene: the image, uint8 RGB [H,W,3], and its Cityscapes label IDs, uint8 [H,W]."""
    p = Painter(style, width, height, rng)
    street = Street(p)
    p.eye[0] = LANE * (0.5 + rng.integers(street.lanes)) + rng.normal(0, 0.25)
    distance, texture = lay_ground(p, street)
    furnish(p, street)
    image = develop(p, shade(p, distance, texture))
    labels = np.array([LABEL_IDS[surface.label] for surface in p.surfaces], np.uint8)
    return image, np.take(labels, p.index)


def lay_ground(p: Painter, street: Street) -> tuple[np.ndarray, np.ndarray]:
    """Paint sky and ground; return the ground's distance in metres and its texture, float32 [H,W] (0 in the sky)."""
    p.add("sky", np.zeros(3), CLOUDS, 0.0, 0.0)
    upwards = p.light(upright(rectangle(0, 1, 0, 1), 0.0))
    for label, material, strength in GROUND:
        p.add(label, p.pick(material) * upwards, ROUGH, strength, 0.0)
    u = (np.arange(p.width, dtype=np.float32) + 0.5 - p.width / 2) / np.float32(p.focal)
    v = (p.height / 2 - 0.5 - np.arange(p.height, dtype=np.float32)[:, None]) / np.float32(p.focal)
    axes = p.axes.astype(np.float32)
    right, up, ahead = (u * axes[0, i] + v * axes[1, i] + axes[2, i] for i in range(3))  # each pixel's ray
    limit = np.float32(p.eye[1] / FAR)
    first = int(np.argmax((up < -limit).any(axis=1)))  # the row of the horizon
    below = up[first:] < -limit
    t = np.float32(p.eye[1]) / np.maximum(-up[first:], limit)
    z = t * ahead[first:]
    x = np.float32(p.eye[0]) + t * right[first:] - np.float32(p.bend) * z**2
    kind = np.where(below, street.surfaces(x, z), 0)
    p.index[first:] = kind
    near = 1 / (1 + t / 10)
    patches = cv2.remap(grains()[SMOOTH], x * 16, z * 8, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    grit = cv2.remap(grains()[ROUGH], x * 30, z * 30, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    joints = (kind == 4) & ((x % 0.9 < 0.06) | (z % 0.9 < 0.06))
    distance, texture = np.zeros((2, p.height, p.width), np.float32)
    distance[first:] = t
    texture[first:] = (0.7 * patches + near * (grit - 2 * joints)) * below
    return distance, texture


def screen_texture(p: Painter, kinds: np.ndarray) -> np.ndarray:
    """The texture for each pixel's kind (uint8 [H,W]), with tiles at random offsets: float32 [H,W]."""
    rows = (p.rng.integers(TILE) + np.arange(int(np.ceil(512 * p.height / p.width)))) % TILE
    columns = (p.rng.integers(TILE) + np.arange(512)) % TILE
    texture = np.empty(kinds.shape, np.float32)
    for kind, tile in enumerate(grains()):
        part = cv2.resize(tile[rows][:, columns], (p.width, p.height), interpolation=cv2.INTER_LINEAR)
        np.copyto(texture, part, where=kinds == kind)
    return texture


def shade(p: Painter, distance: np.ndarray, ground_texture: np.ndarray) -> np.ndarray:
    """The colours of all pixels, float32 [H,W,3] about 0..1: surfaces, textures, shadows, sky and haze."""
    style = p.style
    table = np.array([surface[:6] for surface in p.surfaces], np.float32)  # [k,6]: all but the label
    sky, ground = p.index == 0, (p.index > 0) & (p.index <= len(GROUND))
    texture = screen_texture(p, np.take(table[:, 3].astype(np.uint8), p.index))
    np.copyto(texture, ground_texture, where=ground)
    depth = np.where(ground, distance, np.take(table[:, 5], p.index))
    softness = (0.6 if style.sun else 2.5) * p.width / 512
    shadow = cv2.GaussianBlur(p.shade, (0, 0), softness).astype(np.float32) * (style.shadow / 255)
    brightness = (1 + np.take(table[:, 4], p.index) * texture) * (1 - shadow * ground)
    image = np.take(table[:, :3], p.index, axis=0) * brightness[..., None]
    horizon, zenith, clouds = (np.array(part, np.float32) for part in style.sky)
    rise = np.clip(1 - np.arange(p.height, dtype=np.float32) / (p.height / 2), 0, 1)[:, None, None]
    dome = horizon + (zenith - horizon) * rise + clouds * np.maximum(texture, -0.5)[..., None]
    haze = (1 - np.exp(depth / -style.haze))[..., None]
    return np.where(sky[..., None], dome, image + (horizon - image) * haze).astype(np.float32)


def develop(p: Painter, image: np.ndarray) -> np.ndarray:
    """Turn the colours, float32 [H,W,3] about 0..1, into what the camera records: uint8 RGB."""
    style = p.style
    mix = style.saturation * np.eye(3) + (1 - style.saturation) / 3  # [3,3]
    mix = np.insert(style.contrast * mix, 3, 0.5 - 0.5 * style.contrast, axis=1)  # [3,4]
    light = p.rng.normal(0, style.exposure) + p.rng.normal(0, style.cast, 3)  # logarithm, per channel
    image = cv2.transform(image, mix * (np.array(style.gain) * np.exp(light))[:, None])
    y, x = np.linspace(-1, 1, p.height)[:, None], np.linspace(-1, 1, p.width)
    image *= (1 - style.vignette * (x**2 + y**2) / 2)[..., None].astype(np.float32)
    if style.blur:
        image = cv2.GaussianBlur(image, (0, 0), style.blur * p.width / 512)
    image += style.noise * p.rng.standard_normal(image.shape, dtype=np.float32)
    return cv2.convertScaleAbs(np.maximum(image, 0, out=image), alpha=255)
