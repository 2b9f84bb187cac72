"""The layout of a street, and where its objects are."""

from collections.abc import Callable

import cv2
import numpy as np

from tools.streets import objects
from tools.streets.painter import LEAVES, ROUGH, SMOOTH, Painter, bar, disc, flat

# A layer (1 beside the street, 2 on the pavement, 3 on the road), the distance z, the function that paints it, its
# arguments. Seen from the road, inner layers hide outer ones; within a layer, near things hide far ones.
Thing = tuple[int, float, Callable[..., None], tuple]

END = 110.0  # metres: houses extend up to here
LANE, PARKING = 3.3, 2.1  # widths, metres

# Objects along the kerb, by their names in Style.rates: their range along z, and their largest distance from the
# kerb, as a share of the pavement's width.
KERB = {
    "tree": (objects.tree, 4, 80, 0.3),
    "lamp": (objects.lamp, 4, 60, 0.1),
    "lights": (objects.lights, 6, 35, 0.1),
    "sign": (objects.sign, 5, 35, 0.2),
    "bin": (objects.dustbin, 4, 50, 0.3),
    "person": (objects.person, 4, 32, 1.0),
    "bicycle": (objects.bicycle, 4, 25, 0.6),
}


class Street:
    """The extent of road, pavement and grass: |x| up to `half`, then up to `walk` and `edge` on each side."""

    def __init__(self, p: Painter) -> None:
        self.lanes = 1 + p.chance("lanes")  # each way
        self.parking = p.chance("parking")
        self.half = LANE * self.lanes + PARKING * self.parking
        self.walk = {side: self.half + p.rng.uniform(2.2, 4.5) for side in (-1, 1)}
        self.edge = {side: self.walk[side] + p.chance("strip") * p.rng.uniform(2, 5) for side in (-1, 1)}
        start = p.rng.uniform(14, 60) if p.chance("crossing") else -99.0
        self.crossing = (start, start + p.rng.uniform(7, 11))

    def crosses(self, z: np.ndarray | float, margin: float = 0.0) -> np.ndarray | bool:
        """Whether z is on the crossing, or within `margin` metres of it."""
        return (z > self.crossing[0] - margin) & (z < self.crossing[1] + margin)

    def surfaces(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The ground at (x, z): 1 asphalt, 2 marking, 3 kerb, 4 pavement, 5 grass."""
        a = np.abs(x)
        walk = np.where(x > 0, self.walk[1], self.walk[-1])
        kind = np.select([a < self.half, a < self.half + 0.2, a < walk], [1, 3, 4], 5)
        crossing = self.crosses(z)
        kind[crossing] = 1
        between = (a < 0.09) | ((self.lanes > 1) & (np.abs(a - LANE) < 0.09))
        line = (between & (z % 9 < 4.5)) | (self.parking & (np.abs(a - self.half + PARKING) < 0.07))
        zebra = (np.abs(z - self.crossing[0] + 2.5) < 1.5) & (x % 1.1 < 0.55)
        kind[((line & ~crossing) | zebra) & (kind == 1)] = 2
        return kind


def furnish(p: Painter, street: Street) -> None:
    """Paint everything in the street, from back to front."""
    things = traffic(p, street) + zebra_crossing(p, street)
    for side in (-1, 1):
        things += plots(p, street, side) + pavement(p, street, side)
    backdrop(p)
    for _, _, paint, arguments in sorted(things, key=lambda thing: (thing[0], -thing[1])):
        paint(p, *arguments)
    if p.style.bonnet:
        bonnet(p)


def plots(p: Painter, street: Street, side: int) -> list[Thing]:
    """The plots along one side: houses, or a wall, fence or hedge with trees behind it."""
    things: list[Thing] = []
    shares = np.array([p.style.rates[name] for name in ("wall", "fence", "hedge")])
    z, x = -6.0, street.edge[side]
    while z < END:
        end = z + p.rng.uniform(8, 20)
        if z < street.crossing[1] + 3 and end > street.crossing[0] - 3:
            z = street.crossing[1] + 3.5
            continue
        kind = p.rng.choice(["wall", "fence", "vegetation", "house"], p=[*shares, 1 - shares.sum()])
        if kind == "house":
            things.append((1, z, objects.building, (side, x + p.rng.uniform(0, 0.8), z, end)))
        else:
            things.append((1, z, objects.barrier, (kind, side, x, z, end)))
            for at in np.arange(z + 1.5, end, 5.0):
                things.append((1, at, objects.tree, (side * (x + p.rng.uniform(2.5, 6)), at)))
        z = end + (p.rng.random() < 0.2) * p.rng.uniform(1, 4)
    return things


def pavement(p: Painter, street: Street, side: int) -> list[Thing]:
    """Trees, posts, dustbins, people and bicycles along one side's kerb."""
    things: list[Thing] = []
    width = street.walk[side] - street.half - 0.8
    for name, (paint, near, far, reach) in KERB.items():
        far = near + p.style.rates["reach"] * (far - near)
        for z in p.rng.uniform(near, far, p.rng.poisson(p.style.rates[name] * (far - near))):
            x = side * (street.half + 0.5 + p.rng.random() * reach * width)
            if not street.crosses(z):
                things.append((2, z, paint, (x, z)))
    return things


def vehicle(p: Painter, layer: int, x: float, z: float, yaw: float) -> Thing:
    """A car, a truck or a bus."""
    truck, bus = p.style.rates["truck"], p.style.rates["bus"]
    kind = (objects.truck, objects.bus, objects.car)[p.rng.choice(3, p=[truck, bus, 1 - truck - bus])]
    if kind is not objects.car and layer == 3:
        z += 6.0  # so that a long vehicle close ahead does not fill the view
    return layer, z, kind, (x, z, yaw + p.rng.normal(0, 0.03))


def traffic(p: Painter, street: Street) -> list[Thing]:
    """Cars parked on both sides; vehicles on all lanes; cyclists."""
    things: list[Thing] = []
    for side in (-1, 1) if street.parking else ():
        for z in np.arange(p.rng.uniform(-4, 2), 80, 5.8):
            if p.chance("parked") and not street.crosses(z, 4):
                things.append((3, z, objects.car, (side * (street.half - 1.05), z, np.pi * (side < 0))))
    for lane in np.arange(street.lanes) + 0.5:
        for z in np.arange(p.rng.uniform(9, 20), 80, 13.0):
            if p.chance("traffic"):
                things.append(vehicle(p, 3, LANE * lane, z, 0.0))
            if p.chance("traffic"):
                things.append(vehicle(p, 3, -LANE * lane, z - 4, np.pi))
    for z in p.rng.uniform(5, 20, p.rng.poisson(15 * p.style.rates["rider"])):
        x = p.rng.choice((-1, 1)) * (street.half - PARKING * street.parking - 0.5)
        things.append((3, z, objects.bicycle, (x, z, True)))
    return things


def zebra_crossing(p: Painter, street: Street) -> list[Thing]:
    """Vehicles on the crossing street, and people who cross in front of it."""
    start, end = street.crossing
    if start < 0:
        return []
    things = [vehicle(p, 1, side * (street.half + p.rng.uniform(3, 9)), (start + end) / 2, side * np.pi / 2)
              for side in (-1, 1) if p.chance("traffic")]
    for z in start - p.rng.uniform(1.5, 3.5, p.rng.poisson(6 * p.style.rates["person"])):
        things.append((3, z, objects.person, (p.rng.uniform(-1, 1) * street.half, z)))
    return things


def backdrop(p: Painter) -> None:
    """Distant houses and woods across the end of the street."""
    for z, low, high in ((200.0, 12, 28), (140.0, 5, 15)):
        x = -0.8 * z
        while x < 0.8 * z:
            wide, tall = p.rng.uniform(20, 50), p.rng.uniform(low, high)
            if p.rng.random() < 0.45:
                p.paint(flat(bar(x, x + wide, 0, tall), 0, z), "building", p.pick("plaster"), ROUGH, 0.08)
            else:
                blobs = [disc(x + wide * p.rng.random(), tall * 0.4, tall * 0.5, 12) for _ in range(5)]
                p.paint(flat(np.stack(blobs), 0, z), "vegetation", p.pick("leaf"), LEAVES, 0.2)
            x += wide


def bonnet(p: Painter) -> None:
    """The camera's own car at the bottom of the image."""
    s = np.linspace(-1, 1, 25)
    for drop, brightness in ((0.0, 0.22), (0.025, 0.13), (0.05, 0.1)):
        top = p.height * (0.885 + drop + 0.075 * s**4 + 0.02 * np.abs(s))
        edge = np.stack([p.width * (0.5 + 0.5 * s * (1.04 - drop)), top], axis=1)
        corners = np.concatenate([edge, [[p.width * 1.1, p.height * 1.1], [-p.width * 0.1, p.height * 1.1]]])
        row = p.add("ego vehicle", np.full(3, brightness), SMOOTH, 0.02, 0.0)
        cv2.fillPoly(p.index, [np.rint(corners).astype(np.int32)], row)
