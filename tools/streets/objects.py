"""The objects in a street: functions (painter, position, settings) that paint one and cast its shadow."""

import numpy as np

from tools.streets.painter import (
    LEAVES,
    ROUGH,
    SMOOTH,
    STREAKS,
    Painter,
    bar,
    disc,
    flat,
    panels,
    rectangle,
    turned,
)

DARK = np.array([0.09, 0.09, 0.1])
FLOOR = 3.1  # metres


def building(p: Painter, side: int, x: float, z0: float, z1: float) -> None:
    """A house whose street face lies at `side * x` from z0 to z1."""
    floors, depth = int(p.rng.uniform(2, p.style.rates["floors"])), 9.0
    height, colour = floors * FLOOR + 1, p.pick("plaster")
    near, far = (x, x + depth) if side > 0 else (-x - depth, -x)
    base, middle = rectangle(near, far, z0, z1), (near + far) / 2
    p.cast(base, height)
    if p.chance("gable"):
        ridge = rectangle(middle - 0.1, middle + 0.1, z0, z1)
        p.prism(base, height, height + 4, "building", p.pick("roof"), ridge, STREAKS)
    faces = p.prism(base, 0, height, "building", colour, texture=STREAKS)
    if p.fine(z0, 0.3):
        for face, length in ((faces[2 + side], z1 - z0), (faces[0], depth)):
            if face is not None:
                facade(p, face, length, floors, colour * p.rng.uniform(0.6, 0.9))


def facade(p: Painter, face: np.ndarray, length: float, floors: int, colour: np.ndarray) -> None:
    """Windows in coloured frames, some of them bright; sometimes a shop below; a cornice."""
    columns, glass = max(2, int(length / 2.5)), p.pick("glass")
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(1, floors) + 0.5) / floors)
    u, v, w, h = u.ravel(), v.ravel(), p.style.rates["window"] / 2 / columns, 0.3 / floors
    frames = np.stack([u - 1.2 * w, u + 1.2 * w, v - 1.2 * h, v + 1.1 * h], axis=1)
    windows = np.stack([u - w, u + w, v - h, v + h], axis=1)
    p.paint(panels(face, frames), "building", colour)
    p.paint(panels(face, windows), "building", glass)
    bright = p.rng.permutation(len(u))[: 1 + len(u) // 4]
    p.paint(panels(face, windows[bright]), "building", glass * 1.6 + 0.08)
    if p.chance("shop"):
        f = 1 / floors
        p.paint(panels(face, [(0.0, 1.0, 0.62 * f, 0.95 * f)]), "building", p.pick("clothes"))
        panes = [(0.06, 0.46, 0.08 * f, 0.6 * f), (0.54, 0.94, 0.08 * f, 0.6 * f)]
        p.paint(panels(face, panes), "building", glass * 0.8)
    p.paint(panels(face, [(0.0, 1.0, 0.975, 1.0)]), "building", colour)


def barrier(p: Painter, label: str, side: int, x: float, z0: float, z1: float) -> None:
    """A wall with piers, a fence of slats, or a hedge (vegetation) along `side * x`."""
    material = {"wall": "stone", "fence": "rail", "vegetation": "leaf"}[label]
    texture = {"wall": ROUGH, "fence": SMOOTH, "vegetation": LEAVES}[label]
    base = rectangle(*((x, x + 0.5) if side > 0 else (-x - 0.5, -x)), z0, z1)
    height, colour = p.rng.uniform(2.0, 3.2), p.pick(material)
    p.cast(base, height)
    face = p.prism(base, 0, height, label, colour, texture=texture)[2 + side]
    if face is None:
        return
    step = {"wall": 3.0, "fence": 0.45, "vegetation": 99.0}[label] / (z1 - z0)  # as a fraction of the length
    starts = np.arange(0, 1 - step, step)
    if label == "wall":
        courses = [(0.0, 1.0, y, y + 0.125) for y in (0.125, 0.375, 0.625)]
        p.paint(panels(face, courses), "wall", colour * 0.7, ROUGH, 0.1)
        cells = [(s, s + 0.14 * step, 0.0, 1.0) for s in starts]
        p.paint(panels(face, [*cells, (0.0, 1.0, 0.86, 1.0)]), "wall", colour * 1.3)
    elif label == "fence":
        cells = [(s + 0.25 * step, s + 0.75 * step, 0.1, 0.9) for s in starts]
        p.paint(panels(face, cells), "fence", colour * 0.45)


def tree(p: Painter, x: float, z: float) -> None:
    """A tree with a crown of blobs, dark below and light above; or a palm."""
    height, leaf, palm = p.rng.uniform(5, 9), p.pick("leaf"), p.chance("palm")
    trunk = bar(-0.16, 0.16, 0, height * (1 if palm else 0.6))
    p.paint(flat(trunk, x, z), "vegetation", p.pick("bark"), ROUGH, 0.15)
    if palm:
        fronds = disc(0, height, 2.0, 24)
        fronds[::2] = disc(0, height, 0.45, 12)
        p.paint(flat(fronds, x, z), "vegetation", leaf, LEAVES, 0.3)
        p.cast(disc(x, z, 1.2), height * 0.3)
        return
    radius = height * p.rng.uniform(0.2, 0.3)
    spread = p.rng.normal(0, 0.5 * radius, (8 if p.fine(z, 0.3) else 4, 2))
    for lift, size, shade in ((0.0, 0.7, 0.62), (0.14, 0.55, 0.85), (0.28, 0.36, 1.12)):
        y = 0.68 * height + lift * radius
        blobs = np.stack([disc(dx, y + dy, radius * size, 11) for dx, dy in spread])
        blobs += p.rng.normal(0, 0.06 * radius, blobs.shape)
        p.paint(flat(blobs, x, z), "vegetation", leaf * shade, LEAVES, 0.3)
    p.cast(disc(x, z, radius), height * 0.4)


def pole(p: Painter, x: float, z: float, height: float, arm: float = 0.0) -> None:
    """A post, with an arm (metres, signed) at its top."""
    colour = p.pick("metal")
    p.paint(flat(bar(-0.16, 0.16, 0, height), x, z), "pole", colour)
    p.paint(flat(bar(min(0, arm), max(0, arm), height - 0.25, height), x, z), "pole", colour)
    p.cast(disc(x, z, 0.1, 6), height)


def lamp(p: Painter, x: float, z: float) -> None:
    """A street lamp with an arm over the road."""
    pole(p, x, z, p.rng.uniform(6, 8), arm=-np.sign(x) * p.rng.uniform(1, 2))


def lights(p: Painter, x: float, z: float) -> None:
    """Traffic lights on a post, sometimes also on an arm over the road."""
    arm = -np.sign(x) * p.rng.uniform(2.5, 4) if p.chance("gantry") else 0.0
    pole(p, x, z, 5.8 if arm else 3.4, arm)
    lit, housing = p.rng.integers(3), p.pick("housing")
    for dx, y in ((0.0, 2.3), (arm, 4.7)) if arm else ((0.0, 2.3),):
        p.paint(flat(bar(dx - 0.33, dx + 0.33, y, y + 1.5), x, z), "traffic light", housing)
        for i, colour in enumerate(p.style.materials["signals"]):
            lens = disc(dx, y + 1.22 - 0.47 * i, 0.2, 8)
            p.paint(flat(lens, x, z), "traffic light", np.array(colour) * (1 if i == lit else 0.25))


def sign(p: Painter, x: float, z: float) -> None:
    """A traffic sign on a post: a disc, a triangle, a diamond or a board, with a border."""
    y = p.rng.uniform(2.4, 2.9)
    pole(p, x, z, y)
    triangle = np.array([[-0.62, -0.5], [0.62, -0.5], [0.0, 0.6]])
    kind = p.rng.choice(4, p=p.style.signs)
    figure = (disc(0, 0, 0.55), triangle, disc(0, 0, 0.68, 4), bar(-0.65, 0.65, -0.42, 0.42))[kind]
    border, inside = p.style.materials["signs"][2 * kind : 2 * kind + 2]
    p.paint(flat(figure + (0, y), x, z), "traffic sign", np.array(border))
    p.paint(flat(figure * 0.68 + (0, y), x, z), "traffic sign", np.array(inside))


def person(p: Painter, x: float, z: float) -> None:
    """A person, standing or walking."""
    size, stride = p.rng.uniform(0.95, 1.15), p.rng.uniform(0.03, 0.22)
    leg = np.array([[-0.02, 0.9], [0.17, 0.9], [stride + 0.1, 0], [stride - 0.09, 0]])
    coat = np.array([[0.0, 0.8], [0.18, 0.8], [0.27, 0.85], [0.25, 1.42], [0.1, 1.52], [0.0, 1.52]])
    p.paint(flat(np.stack([leg, leg * (-1, 1)]) * size, x, z), "person", p.pick("trousers"))
    p.paint(flat(np.concatenate([coat, coat[::-1] * (-1, 1)]) * size, x, z), "person", p.pick("clothes"))
    p.paint(flat(disc(0, 1.64, 0.13, 10) * size, x, z), "person", p.pick("skin"))
    p.cast(disc(x, z, 0.25, 8), 1.6)


def bicycle(p: Painter, x: float, z: float, ridden: bool = False) -> None:
    """A bicycle, with or without a rider."""
    turn = p.rng.uniform(-1.1, 1.1) + np.pi * p.rng.integers(2)
    frame = np.array([[-0.6, 0.4], [0.0, 0.35], [0.55, 0.9], [0.5, 1.05], [0.35, 0.95], [-0.25, 0.95]])
    for s in (-0.6, 0.6):
        p.paint(flat(disc(s, 0.4, 0.4), x, z, turn), "bicycle", DARK)
        p.paint(flat(disc(s, 0.4, 0.33), x, z, turn), "bicycle", p.pick("metal"))
    p.paint(flat(frame, x, z, turn), "bicycle", p.pick("paint"))
    p.cast(turned(x, z, np.pi / 2 - turn, (-0.8, 0.8), 0.3), 0.9)
    if ridden:
        leg = np.array([[-0.3, 1.0], [0.0, 1.05], [0.2, 0.35], [0.02, 0.3]])
        back = np.array([[-0.36, 0.9], [0, 0.95], [0.2, 1.2], [0.5, 1.1], [0.5, 1.2], [0.2, 1.55], [0, 1.6]])
        p.paint(flat(leg, x, z, turn), "rider", p.pick("trousers"))
        p.paint(flat(back, x, z, turn), "rider", p.pick("jacket"))
        p.paint(flat(disc(0.2, 1.74, 0.18, 10), x, z, turn), "rider", p.pick("jacket") * 0.8)


def wheels(p: Painter, side: np.ndarray | None, label: str, radius: float) -> None:
    """Two wheels on a side [4,3] whose lower edge is 0.25 m above the ground; nothing if it is None."""
    if side is None:
        return
    along = side[1] - side[0]
    length = np.sqrt(along @ along)
    for share in (0.19, 0.81):
        centre = side[0] + share * along + (0, radius - 0.25, 0)
        for size, colour in ((radius, DARK), (radius * 0.55, p.pick("metal"))):
            rim = disc(0, 0, size, 12)
            p.paint(centre + rim[:, :1] * (along / length) + rim[:, 1:] * (0.0, 1.0, 0.0), label, colour)


def car(p: Painter, x: float, z: float, yaw: float) -> None:
    """A car or a van: a body, a narrower cabin with windows, wheels, lights."""
    half, width, van = p.rng.uniform(1.95, 2.4), p.rng.uniform(1.7, 1.85), p.rng.random() < 0.2
    shoulder, roof = (1.0, 1.9) if van else (0.88, p.rng.uniform(1.4, 1.6))
    colour, glass = p.pick("paint"), p.pick("glass") * 0.6
    base = turned(x, z, yaw, (-half, half), width)
    sill = turned(x, z, yaw, (0.15 - half, half * (0.75 if van else 0.5)), width * 0.96)
    top = turned(x, z, yaw, ((0.2 if van else 0.6) - half, half * (0.55 if van else 0.12)), width * 0.78)
    p.cast(base, roof)
    rear, right, front, left = p.prism(base, 0.25, shoulder, "car", colour)
    for i, face in enumerate(p.prism(sill, shoulder, roof, "car", colour, top)):
        if face is not None:
            columns = ((0.08, 0.48), (0.54, 0.92)) if i % 2 else ((0.08, 0.92),)
            p.paint(panels(face, [(*column, 0.08, 0.85) for column in columns]), "car", glass)
    if not p.fine(z, 0.18):
        return
    for side in (right, left):
        wheels(p, side, "car", 0.33)
    for face, shining in ((rear, (0.75, 0.05, 0.04)), (front, (0.95, 0.95, 0.85))):
        if face is not None:
            p.paint(panels(face, [(0.02, 0.2, 0.5, 0.8), (0.8, 0.98, 0.5, 0.8)]), "car", np.array(shining))
            p.paint(panels(face, [(0.0, 1.0, 0.0, 0.2), (0.35, 0.65, 0.3, 0.5)]), "car", colour * 0.4)


def truck(p: Painter, x: float, z: float, yaw: float) -> None:
    """A lorry: a large pale box behind a coloured cabin."""
    half, cargo, paint = p.rng.uniform(3, 4.2), p.pick("cargo"), p.pick("paint")
    box = turned(x, z, yaw, (-half, half - 2.0), 2.4)
    cabin = turned(x, z, yaw, (half - 1.8, half), 2.3)
    p.cast(turned(x, z, yaw, (-half, half), 2.4), 3.2)

    def load() -> None:
        _, right, _, left = p.prism(box, 0.25, 0.9, "truck", DARK * 1.5)
        for side in (right, left):
            wheels(p, side, "truck", 0.5)
        doors = p.prism(box, 0.9, 3.4, "truck", cargo, texture=STREAKS)[0]
        if doors is not None:
            p.paint(panels(doors, [(0.49, 0.51, 0.02, 0.98)]), "truck", DARK)

    def front() -> None:
        for face in p.prism(cabin, 0.25, 2.7, "truck", paint)[1:]:
            if face is not None:
                p.paint(panels(face, [(0.1, 0.9, 0.52, 0.9)]), "truck", p.pick("glass") * 0.6)

    # The part farther from the camera comes first.
    for part in (front, load) if np.cos(yaw) > 0 else (load, front):
        part()


def bus(p: Painter, x: float, z: float, yaw: float) -> None:
    """A bus: one tall body in the company's colour, with windows all round."""
    half, colour, glass = p.rng.uniform(4.5, 6), p.pick("livery"), p.pick("glass") * 0.6
    base = turned(x, z, yaw, (-half, half), 2.5)
    p.cast(base, 3)
    for i, face in enumerate(p.prism(base, 0.25, 3.1, "bus", colour)):
        if face is not None:
            n = 6 if i % 2 else 1
            windows = [((k + 0.08) / n, (k + 0.92) / n, 0.42, 0.85) for k in range(n)]
            p.paint(panels(face, windows), "bus", glass)
            p.paint(panels(face, [(0.0, 1.0, 0.0, 0.14)]), "bus", DARK * 1.6)
            wheels(p, face if i % 2 else None, "bus", 0.48)


def dustbin(p: Painter, x: float, z: float) -> None:
    """A dustbin: "static", which is not a training class."""
    base = rectangle(x - 0.3, x + 0.3, z - 0.3, z + 0.3)
    p.cast(base, 1.0)
    p.prism(base, 0, 1.05, "static", p.pick("rail") * 0.6)
