"""The worlds: the game, SYNTHIA and the real world are styles of the same kind of street."""

from dataclasses import dataclass, replace

Range = tuple[float, float]
Colour = tuple[float, float, float]  # red, green, blue, about 0..1


@dataclass(frozen=True)
class Style:
    """What distinguishes one world from another: camera, light, materials, objects and image quality."""

    height: Range  # of the camera, metres
    view: Range  # horizontal field of view, degrees
    pitch: Range  # downwards, degrees
    ambient: float  # light from all directions
    sun: float  # direct light; 0 = overcast
    shadow: float  # how dark shadows are, 0..1
    sky: tuple[Colour, Colour, float]  # at the horizon, at the zenith; the clouds' contrast
    haze: float  # metres after which 63 % of the colour is the horizon's
    texture: float  # strength of all textures
    saturation: float
    contrast: float
    gain: Colour
    exposure: float  # between images: standard deviation of the logarithm of the brightness
    cast: float  # in addition, the same per channel: the white balance
    blur: float  # standard deviation in pixels, for an image 512 pixels wide
    noise: float  # standard deviation
    vignette: float  # loss of light in the corners, 0..1
    bonnet: bool  # whether the camera's own car is visible
    signs: tuple[float, ...]  # shares of discs, triangles, diamonds and boards
    rates: dict[str, float]  # objects: number per metre and side; others: probability, unless noted below
    materials: dict[str, tuple[Colour, ...]]


RATES = {
    "lanes": 0.5, "parking": 0.45, "strip": 0.6, "crossing": 0.5, "parked": 0.5, "traffic": 0.4, "truck": 0.2,
    "bus": 0.2, "wall": 0.24, "fence": 0.24, "hedge": 0.05, "shop": 0.5, "gable": 0.0, "palm": 0.25,
    "gantry": 0.5, "tree": 0.05, "lamp": 0.03, "lights": 0.04, "sign": 0.05, "bin": 0.01, "person": 0.15,
    "rider": 0.12, "bicycle": 0.04,
    "reach": 1.0,  # how far objects extend along the kerb, as a share of the usual range
    "floors": 7, "window": 0.6,  # largest number; a window's share of the width
}  # fmt: skip
WHITE, BLACK, RED, BLUE = (0.9, 0.9, 0.9), (0.08, 0.08, 0.08), (0.8, 0.08, 0.08), (0.1, 0.25, 0.75)
YELLOW, GREEN = (0.9, 0.7, 0.1), (0.1, 0.45, 0.25)

GAME = Style(
    height=(1.5, 2.4),
    view=(58, 70),
    pitch=(0, 5),
    ambient=0.62,
    sun=0.52,
    shadow=0.45,
    sky=((0.84, 0.87, 0.86), (0.38, 0.57, 0.82), 0.08),
    haze=400,
    texture=1.0,
    saturation=1.1,
    contrast=1.1,
    gain=(1.2, 1.2, 1.28),
    exposure=0.06,
    cast=0.0,
    blur=0.0,
    noise=0.006,
    vignette=0.05,
    bonnet=False,
    signs=(0.25, 0.1, 0.3, 0.35),
    rates=RATES,
    materials={
        "asphalt": ((0.43, 0.41, 0.39), (0.48, 0.45, 0.42), (0.38, 0.36, 0.35)),
        "marking": ((0.9, 0.88, 0.8), (0.85, 0.7, 0.3)),
        "kerb": ((0.75, 0.7, 0.62),),
        "pavement": ((0.66, 0.58, 0.5), (0.7, 0.63, 0.55), (0.6, 0.54, 0.48)),
        "grass": ((0.45, 0.5, 0.18), (0.55, 0.5, 0.26), (0.36, 0.46, 0.16)),
        "plaster": ((0.8, 0.66, 0.48), (0.74, 0.45, 0.33), (0.85, 0.8, 0.7), (0.6, 0.42, 0.32)),
        "roof": ((0.5, 0.3, 0.25), (0.4, 0.38, 0.4)),
        "glass": ((0.22, 0.32, 0.42), (0.16, 0.22, 0.3), (0.3, 0.36, 0.42)),
        "stone": ((0.62, 0.54, 0.46), (0.55, 0.4, 0.33), (0.7, 0.66, 0.6)),
        "rail": ((0.5, 0.45, 0.4), (0.35, 0.33, 0.32), (0.6, 0.5, 0.4)),
        "leaf": ((0.3, 0.42, 0.12), (0.38, 0.48, 0.16), (0.24, 0.38, 0.14)),
        "bark": ((0.36, 0.27, 0.2),),
        "metal": ((0.45, 0.44, 0.42), (0.38, 0.38, 0.38), (0.55, 0.53, 0.5)),
        "housing": ((0.75, 0.58, 0.15), (0.1, 0.1, 0.1)),
        "signals": ((0.95, 0.1, 0.08), (0.95, 0.7, 0.1), (0.15, 0.9, 0.4)),
        "signs": (RED, WHITE, RED, WHITE, BLACK, YELLOW, WHITE, GREEN),  # border and inside of each figure
        "skin": ((0.8, 0.6, 0.48), (0.5, 0.34, 0.25)),
        "clothes": ((0.75, 0.2, 0.18), (0.85, 0.82, 0.78), (0.2, 0.35, 0.6), (0.8, 0.65, 0.2)),
        "jacket": ((0.95, 0.6, 0.1), (0.9, 0.8, 0.15)),  # of cyclists
        "trousers": ((0.2, 0.24, 0.38), (0.3, 0.27, 0.25), (0.55, 0.5, 0.42)),
        "paint": ((0.75, 0.12, 0.1), (0.85, 0.85, 0.84), (0.15, 0.3, 0.6), (0.8, 0.6, 0.15), (0.1, 0.1, 0.1)),
        "livery": ((0.85, 0.45, 0.1), (0.8, 0.2, 0.12), (0.9, 0.6, 0.15)),
        "cargo": ((0.9, 0.9, 0.88), (0.75, 0.78, 0.85)),
    },
)

SYNTHIA = replace(
    GAME,
    height=(1.4, 5.5),
    view=(60, 95),
    pitch=(0, 16),
    ambient=0.7,
    sun=0.4,
    sky=((0.7, 0.75, 0.8), (0.4, 0.5, 0.65), 0.2),
    texture=0.35,
    saturation=1.2,
    contrast=1.15,
    gain=(0.8, 0.74, 0.8),
    noise=0.004,
    vignette=0.0,
    rates=RATES | {"person": 0.22, "wall": 0.06, "gable": 0.3, "palm": 0.0},
)

REAL = Style(
    height=(1.15, 1.35),
    view=(50, 57),
    pitch=(0.5, 3),
    ambient=1.0,
    sun=0.0,
    shadow=0.55,
    sky=((0.95, 0.97, 0.97), (0.88, 0.92, 0.95), 0.05),
    haze=300,
    texture=1.2,
    saturation=0.85,
    contrast=1.12,
    gain=(0.68, 0.82, 0.78),
    exposure=0.35,
    cast=0.12,
    blur=0.6,
    noise=0.014,
    vignette=0.25,
    bonnet=True,
    signs=(0.4, 0.25, 0.15, 0.2),
    rates=RATES | {
        "lanes": 0.3, "truck": 0.14, "bus": 0.14, "wall": 0.25, "fence": 0.27, "hedge": 0.07, "shop": 0.35,
        "gable": 0.7, "palm": 0.0, "gantry": 0.2, "sign": 0.06, "person": 0.2, "rider": 0.14, "bicycle": 0.06,
        "floors": 6, "window": 0.45,
    },  # fmt: skip
    materials=GAME.materials | {
        "marking": ((0.85, 0.84, 0.8),),
        "signs": (RED, WHITE, RED, WHITE, WHITE, YELLOW, WHITE, BLUE),
        "clothes": ((0.16, 0.17, 0.2), (0.3, 0.28, 0.28), (0.2, 0.24, 0.36), (0.45, 0.18, 0.18)),
        "livery": ((0.25, 0.5, 0.5), (0.65, 0.66, 0.6), (0.6, 0.55, 0.2)),
        "cargo": ((0.22, 0.32, 0.5), (0.5, 0.5, 0.5), (0.28, 0.42, 0.33)),
    },
)  # fmt: skip

# Quiet streets: fewer kinds of objects, all nearby, which a small network learns in a few hundred iterations.
CALM = {
    "truck": 0.0, "bus": 0.0, "wall": 0.0, "fence": 0.0, "hedge": 0.1, "parked": 0.35, "traffic": 0.3, "person": 0.0,
    "rider": 0.1, "bicycle": 0.06, "bin": 0.0, "sign": 0.07, "lights": 0.0, "reach": 0.45,
}  # fmt: skip


def calm(style: Style) -> Style:
    """The same world with quiet streets: 11 classes instead of 17."""
    return replace(style, rates=style.rates | CALM)
