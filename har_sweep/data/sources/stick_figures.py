"""The embedded default dataset: stick figures acting the study's 15 classes, drawn by code. Synthetic, no photographs.

Everything is a ``Shape`` in the complex plane: x to the right, y up, the ground at 0, a person about 3 high. A class is
one or more scenes, and a scene is data: figures and props in the order in which they are painted. ``draw`` picks one,
bends it, puts it somewhere before a wall with clutter, and colours it. Two things keep the pixels the same on every
machine: only uniform draws of PCG64, and coordinates rounded to whole pixels before anything is painted.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from PIL import Image, ImageDraw

from har_sweep.files import atomic

WIDTH, HEIGHT = 260, 190
OVERSAMPLING = 2
NOTICE = (
    "These pictures were drawn by har_sweep: synthetic stick figures, not photographs of people.\n"
    "They show that a sweep works; accuracies on them say nothing about recognising actions in real images.\n"
)


@dataclass(frozen=True)
class Shape:
    """A stroke through ``points``, or with ``fill`` the area inside them; ``width`` in line widths of the picture."""

    points: tuple[complex, ...]
    colour: str = "ink"
    fill: bool = False
    width: float = 1.0

    def moved(self, by: complex, scale: complex = 1) -> Shape:
        """Scaled and turned about 0 by a complex ``scale``, then shifted."""
        return replace(self, points=tuple(p * scale + by for p in self.points))


@dataclass(frozen=True)
class Figure:
    """A person by where hip, neck, hands and feet are.

    ``elbows`` and ``knees`` say to which side of its limb each one bends (1: left, seen from the body). ``look`` turns
    the face right (1) or left (-1), ``nod`` the head, in degrees clockwise; ``loose`` is how far hands and feet stray.
    """

    hip: complex = 1.2j
    neck: complex = 2.1j
    hands: tuple[complex, complex] = (-0.45 + 1.3j, 0.45 + 1.3j)
    feet: tuple[complex, complex] = (-0.25 + 0j, 0.25 + 0j)
    elbows: tuple[int, int] = (-1, 1)
    knees: tuple[int, int] = (1, 1)
    head: float = 0.32
    face: str = "smile"
    look: float = 1.0
    nod: float = 0.0
    loose: float = 0.05
    shirt: str = "shirt"

    def mirrored(self) -> Figure:
        """The same pose facing the other way, in other clothes."""
        hip, neck, *ends = (-p.conjugate() for p in (self.hip, self.neck, *self.hands, *self.feet))
        (e0, e1), (k0, k1) = self.elbows, self.knees
        return replace(
            self,
            hip=hip,
            neck=neck,
            hands=(ends[0], ends[1]),
            feet=(ends[2], ends[3]),
            elbows=(-e0, -e1),
            knees=(-k0, -k1),
            look=-self.look,
            nod=-self.nod,
            shirt="shirt2",
        )

    def shapes(self, rng: Generator) -> Iterator[Shape]:
        """From the far arm to the near one."""
        hands, feet = (
            [p + self.loose * complex(*rng.uniform(-1, 1, 2)) for p in pair] for pair in (self.hands, self.feet)
        )
        arm, leg = rng.uniform(0.95, 1.06, 2) * (0.48, 0.61)
        arms = [_limb(self.neck - 0.08j, hand, arm, side) for hand, side in zip(hands, self.elbows, strict=True)]
        up = _unit(self.neck - self.hip) * turn(-self.nod + rng.uniform(-4, 4))
        centre = self.neck + (self.head + 0.08) * up
        yield arms[0]
        for foot, side in zip(feet, self.knees, strict=True):
            yield _limb(self.hip, foot, leg, side)
        yield line(self.neck, centre)
        yield line(self.hip, self.neck, colour=self.shirt, width=2.8)
        for shape in (disc(0, 1, 1, "skin"), *(s.moved(0.3 * self.look) for s in FACES[self.face])):
            yield shape.moved(centre, self.head * up * -1j)
        yield arms[1]


def _unit(vector: complex) -> complex:
    return vector / abs(vector)


def _limb(start: complex, end: complex, length: float, side: int) -> Shape:
    """Two equal bones of ``length``: the joint stands over the middle, as far out as Pythagoras lets it."""
    height = max(length**2 - (abs(end - start) / 2) ** 2, 0) ** 0.5
    return line(start, (start + end) / 2 + side * 1j * height * _unit(end - start), end)


def line(*points: complex, colour: str = "ink", width: float = 1.0) -> Shape:
    return Shape(points, colour, width=width)


def area(*points: complex, colour: str) -> Shape:
    return Shape(points, colour, fill=True)


def box(corner: complex, size: complex, colour: str) -> Shape:
    return area(corner, corner + size.real, corner + size, corner + 1j * size.imag, colour=colour)


def arc(centre: complex, rx: float, ry: float, start: float = 0, stop: float = 360) -> tuple[complex, ...]:
    """Points of an ellipse between two angles in degrees."""
    angles = np.radians(np.linspace(start, stop, 19))
    return tuple(complex(p) for p in centre + rx * np.cos(angles) + 1j * ry * np.sin(angles))


def disc(centre: complex, rx: float, ry: float, colour: str) -> Shape:
    return area(*arc(centre, rx, ry), colour=colour)


def turn(degrees: float) -> complex:
    return complex(np.exp(1j * np.radians(degrees)))


def rays(centre: complex, inner: float, outer: float, *angles: float, colour: str = "ink") -> tuple[Shape, ...]:
    ends = ((centre + inner * turn(a), centre + outer * turn(a)) for a in angles)
    return tuple(line(*pair, colour=colour, width=0.6) for pair in ends)


def copies(shapes: Iterable[Shape], *places: tuple[complex, complex]) -> tuple[Shape, ...]:
    """The same shapes at several places, each with its ``Shape.moved`` scale."""
    shapes = tuple(shapes)
    return tuple(s.moved(at, scale) for at, scale in places for s in shapes)


def _both(*shapes: Shape) -> tuple[Shape, ...]:
    """With their mirror images."""
    return (*shapes, *(replace(s, points=tuple(-p.conjugate() for p in s.points)) for s in shapes))


_DOT = line(0.36 + 0.2j, colour="black", width=0.8)
_SHUT = line(*arc(0.36 + 0.25j, 0.2, 0.18, 190, 350), colour="black", width=0.5)
_BROW = line(0.12 + 0.4j, 0.62 + 0.65j, colour="black", width=0.6)
_MERRY = line(0.15 + 0.1j, 0.38 + 0.42j, 0.6 + 0.1j, colour="black", width=0.6)
_GRIN = line(*arc(0, 0.5, 0.55, 210, 330), colour="black", width=0.5)
FACES = {  # on a head of radius 1
    "smile": (*_both(_DOT), _GRIN),
    "open": (*_both(_DOT), disc(0.1 - 0.4j, 0.2, 0.22, "red")),
    "blissful": (*_both(_SHUT), _GRIN),
    "asleep": (*_both(_SHUT), disc(-0.45j, 0.12, 0.12, "black")),
    "angry": (*_both(_DOT, _BROW), line(-0.3 - 0.45j, 0.3 - 0.45j, colour="black", width=0.6)),
    "laughing": (
        *_both(_MERRY),
        area(*arc(-0.1j, 0.6, 0.68, 180, 360), colour="red"),
        area(*arc(-0.12j, 0.45, 0.18, 180, 360), colour="paper"),
    ),
    "headphones": (
        *_both(_SHUT, disc(1.02, 0.22, 0.45, "note")),
        _GRIN,
        line(*arc(0, 1.15, 1.25, 15, 165), colour="note", width=1.6),
    ),
}

HEART = (area(-0.65j, *arc(-0.25, 0.25, 0.25, 200, 0), *arc(0.25, 0.25, 0.25, 180, -20), colour="red"),)
STAR = (area(*(r * turn(22.5 * k) for k, r in enumerate((1, 0.45) * 8)), colour="yellow"),)
NOTE = (disc(0, 0.16, 0.12, "note"), line(0.15, 0.15 + 0.6j, 0.4 + 0.45j, colour="note", width=0.7))
ZED = (line(0.4j, 0.35 + 0.4j, 0, 0.35, width=0.8),)
HA = (line(0, 0.4j, 0.2j, 0.25 + 0.2j, 0.25 + 0.4j, 0.25), line(0.4, 0.53 + 0.4j, 0.66, 0.6 + 0.15j, 0.46 + 0.15j))
CHAIR = (
    box(-0.35 + 0.62j, 0.8 + 0.12j, "wood"),
    *(line(x, x + 0.62j, colour="wood", width=1.3) for x in (-0.28, 0.38)),
    line(-0.33 + 0.65j, -0.42 + 1.75j, colour="wood", width=1.5),
)
TABLE = (
    *(line(x, x + 1.05j, colour="wood", width=1.3) for x in (0.75, 1.75)),
    box(0.5 + 1.05j, 1.5 + 0.1j, "wood"),
)
WHEEL = (line(*arc(0, 0.55, 0.55), colour="ink"), *rays(0, 0, 0.55, *range(0, 360, 45)))
PEDALS = (-0.1 + 0.72j, 0.2 + 0.28j)
BICYCLE = (
    *copies(WHEEL, (-0.85 + 0.55j, 1), (0.95 + 0.55j, 1)),
    line(0.05 + 0.5j, -0.85 + 0.55j, -0.3 + 1.15j, 0.05 + 0.5j, 0.68 + 1.2j, -0.28 + 1.1j, colour="bright", width=1.3),
    line(0.95 + 0.55j, 0.65 + 1.45j, 0.85 + 1.5j, colour="bright", width=1.3),
    line(-0.5 + 1.24j, -0.15 + 1.2j, width=1.8),
    line(*arc(0.05 + 0.5j, 0.14, 0.14)),
    line(*PEDALS),
)
BED = (
    box(-1.9 + 0.45j, 3.6 + 0.35j, "paper"),
    *(line(x, x + y, colour="wood", width=2.2) for x, y in ((-1.95, 1.5j), (1.75, 1.1j))),
    line(-1.95 + 0.45j, 1.75 + 0.45j, colour="wood", width=2.2),
    disc(-1.5 + 0.95j, 0.4, 0.2, "paper"),
)
LAPTOP = (
    area(1.05 + 1.18j, 1.6 + 1.18j, 1.85 + 1.8j, 1.3 + 1.8j, colour="black"),
    area(1.14 + 1.24j, 1.56 + 1.24j, 1.76 + 1.74j, 1.34 + 1.74j, colour="screen"),
    area(0.65 + 1.15j, 1.6 + 1.15j, 1.6 + 1.23j, 0.65 + 1.23j, colour="metal"),
)
BALL = (
    line(0.32j, 0.9j, width=0.5),
    *rays(0, 0.42, 0.8, *range(-160, 80, 30), colour="yellow"),
    disc(0, 0.34, 0.34, "metal"),
    *(line(*arc(0, r, 0.34), width=0.4) for r in (0.02, 0.2)),
    *(line(y * 1j - x, y * 1j + x, width=0.4) for x, y in ((0.28, -0.18), (0.34, 0), (0.28, 0.18))),
)
BOTTLE_HALF = (-0.06 + 0j, -0.06 + 0.25j, -0.16 + 0.4j, -0.16 + 0.95j)
BOTTLE = (area(*BOTTLE_HALF, *(-p.conjugate() for p in reversed(BOTTLE_HALF)), colour="green"),)
CUP = (
    line(-0.08 + 0.02j, 0.22 - 0.45j, colour="paper", width=0.9),
    area(0.08 - 0.45j, 0.46 - 0.45j, 0.4 - 1.0j, 0.14 - 1.0j, colour="red"),
)
FORK = (
    line(0, 0.5j, colour="metal", width=0.8),
    *(line(0.4j, x + 0.62j, colour="metal", width=0.5) for x in (-0.1, 0, 0.1)),
)
BURGER = (
    disc(0.1j, 0.36, 0.1, "wood"),
    disc(0.2j, 0.4, 0.08, "green"),
    disc(0.27j, 0.38, 0.08, "red"),
    area(*arc(0.3j, 0.38, 0.26, 0, 180), colour="yellow"),
)
PHONE = (
    area(-0.1, 0.1, 0.25 + 0.38j, 0.05 + 0.38j, colour="black"),
    area(-0.02 + 0.05j, 0.09 + 0.05j, 0.18 + 0.32j, 0.07 + 0.32j, colour="screen"),
)
BUBBLE = (
    area(*arc(0, 0.55, 0.32, -110, 220), -0.55 - 0.55j, colour="paper"),
    *(line(x, colour="black", width=1.4) for x in (-0.25, 0, 0.25)),
)
STANDING = Figure(elbows=(-1, -1))
SEATED = Figure(0.85j, 0.1 + 1.75j, (0.45 + 1.0j, 0.5 + 1.0j), (0.5 + 0j, 0.65 + 0j), (-1, -1))
BOXER = Figure(
    -0.95 + 1.15j, -0.65 + 2.0j, (-0.05 + 1.75j, 0.35 + 2.35j), (-1.4 + 0j, -0.5 + 0j), (-1, -1), face="angry"
)
LOVER = Figure(
    -0.42 + 1.2j, -0.28 + 2.05j, (0.62 + 1.75j, 0.55 + 1.6j), (-0.7 + 0j, -0.35 + 0j), (-1, -1), face="blissful"
)

SCENES: dict[str, tuple[tuple[Figure | Shape, ...], ...]] = {
    "calling": (
        (
            replace(STANDING, hands=(-0.35 + 1.25j, 0.36 + 2.35j), face="open", look=-0.4),
            box(0.27 + 2.25j, 0.15 + 0.5j, "black"),
            *(line(*arc(0.45 + 2.6j, r, r, -40, 40), width=0.7) for r in (0.2, 0.38, 0.56)),
        ),
    ),
    "clapping": (
        (
            replace(STANDING, hands=(0.62 + 1.95j, 0.72 + 1.95j)),
            *(disc(x + 2.02j, 0.08, 0.17, "skin") for x in (0.62, 0.74)),
            *rays(0.68 + 2.0j, 0.28, 0.55, -60, -20, 20, 60, 100, 140),
        ),
        (
            Figure(hands=(-0.08 + 1.65j, 0.08 + 1.65j), look=0),
            *(disc(x + 1.72j, 0.08, 0.17, "skin") for x in (-0.09, 0.09)),
            *rays(1.7j, 0.28, 0.5, -60, -30, 0, 180, 210, 240),
        ),
    ),
    "cycling": (
        (
            *BICYCLE,
            Figure(-0.3 + 1.3j, 0.2 + 2.05j, (0.78 + 1.48j, 0.82 + 1.5j), PEDALS, (-1, -1), nod=-25, loose=0.02),
        ),
    ),
    "dancing": (
        (
            *copies(BALL, (1.2 + 2.7j, 1)),
            *copies(NOTE, (-1.2 + 2.2j, 0.9)),
            Figure(
                0.1 + 1.2j, 0.05 + 2.1j, (-0.6 + 2.75j, 0.6 + 2.75j), (-0.1, 0.95 + 0.5j), (1, -1), (1, -1), loose=0.15
            ),
        ),
        (
            *copies(BALL, (-1.15 + 2.7j, 1)),
            *copies(NOTE, (1.2 + 1.6j, 0.9)),
            Figure(-0.1 + 1.1j, 0.08 + 1.95j, (-0.25 + 1.2j, 0.8 + 2.6j), (-0.65, 0.55), (-1, 1), (-1, 1), loose=0.15),
        ),
    ),
    "drinking": tuple(
        (
            replace(STANDING, hands=(-0.4 + 1.25j, hand), face="open", nod=-25),
            *copies(vessel, (0.22 + 2.5j, turn(tilt))),
        )
        for vessel, hand, tilt in ((BOTTLE, 0.6 + 2.75j, -50), (CUP, 0.45 + 1.8j, 0))
    ),
    "eating": (
        (
            *CHAIR,
            replace(SEATED, face="open", hands=(0.75 + 1.2j, 0.85 + 1.75j), loose=0.02),
            *TABLE,
            disc(1.3 + 1.2j, 0.5, 0.08, "paper"),
            *copies(BURGER, (1.3 + 1.18j, 1)),
            *copies(FORK, (0.95 + 1.7j, 0.4 + 0.9j)),
        ),
    ),
    "fighting": (
        (
            BOXER,
            replace(BOXER.mirrored(), neck=1.1 + 2.0j, hands=(0.3 + 1.55j, 0.6 + 1.8j), nod=15),
            *copies(STAR, (0.65 + 2.45j, 0.38)),
            *(disc(at, 0.16, 0.14, "red") for at in (-0.05 + 1.75j, 0.4 + 2.38j)),
            *(disc(at, 0.16, 0.14, "bright") for at in (0.3 + 1.55j, 0.55 + 1.85j)),
        ),
    ),
    "hugging": ((LOVER, replace(LOVER.mirrored(), hands=(-0.6 + 1.9j, -0.58 + 1.75j)), *copies(HEART, (3.35j, 0.6))),),
    "laughing": (
        (
            Figure(1.15j, 1.9j, (-0.1 + 1.4j, 0.1 + 1.35j), head=0.6, face="laughing", look=0.2, nod=-8),
            *copies(HA, (0.85 + 2.6j, 1), (1.0 + 2.0j, 0.8), (-1.6 + 2.5j, 0.9)),
        ),
    ),
    "listening_to_music": (
        (
            Figure(head=0.45, face="headphones", look=0, nod=8),
            *copies(NOTE, (0.95 + 2.7j, 0.8), (-1.2 + 2.6j, 0.9), (1.2 + 2.0j, 0.7)),
        ),
        (
            *CHAIR,
            replace(SEATED, head=0.42, face="headphones", look=0),
            *copies(NOTE, (0.85 + 2.4j, 0.8), (1.3 + 2.0j, 0.9)),
        ),
    ),
    "running": (
        (
            Figure(1.2j, 0.35 + 2.05j, (-0.2 + 1.45j, 1 + 1.95j), (-0.85 + 0.55j, 0.65 + 0.15j), (-1, -1), loose=0.1),
            *(line(-2 + y, -1.2 + y, width=0.6) for y in (0.9j, 1.4j, 1.9j)),
        ),
    ),
    "sitting": (
        (*CHAIR, SEATED),
        (Figure(0.12j, -0.15 + 1.0j, (0.4 + 0.55j, 0.45 + 0.5j), (0.8, 0.9), (-1, -1)),),
    ),
    "sleeping": (
        (
            *BED,
            Figure(-0.2 + 0.95j, -1.05 + 0.95j, (-0.15 + 0.85j,) * 2, (1 + 0.9j,) * 2, face="asleep", look=0, loose=0),
            area(-0.75 + 0.5j, 1.7 + 0.5j, 1.7 + 1.0j, 1.2 + 1.2j, -0.6 + 1.15j, colour="bright"),
            *copies(ZED, (-1.0 + 1.6j, 0.7), (-0.6 + 2.0j, 0.9), (-0.1 + 2.5j, 1.2)),
        ),
    ),
    "texting": (
        (
            replace(STANDING, hands=(0.5 + 1.72j, 0.6 + 1.7j), nod=30),
            *copies(PHONE, (0.6 + 1.68j, 1)),
            *copies(BUBBLE, (1.5 + 2.5j, 1)),
        ),
        (
            *CHAIR,
            replace(SEATED, hands=(0.55 + 1.42j, 0.65 + 1.4j), nod=30),
            *copies(PHONE, (0.65 + 1.38j, 1)),
            *copies(BUBBLE, (1.55 + 2.2j, 1)),
        ),
    ),
    "using_laptop": ((*CHAIR, replace(SEATED, hands=(0.85 + 1.27j, 0.95 + 1.27j)), *TABLE, *LAPTOP),),
}
CLASSES: tuple[str, ...] = tuple(SCENES)

ON_WALL: tuple[tuple[Shape, ...], ...] = (
    (box(0j, 1 + 0.8j, "screen"), line(0.5, 0.5 + 0.8j, width=0.6), line(0.4j, 1 + 0.4j, width=0.6)),
    (box(0j, 0.7 + 0.9j, "wood"), box(0.12 + 0.12j, 0.46 + 0.66j, "bright")),
    (disc(0, 0.3, 0.3, "paper"), line(0.2j, 0, 0.12 + 0.1j, width=0.5)),
)
ON_FLOOR: tuple[tuple[Shape, ...], ...] = (
    (line(0, 0.6j, colour="wood", width=2), disc(0.95j, 0.4, 0.5, "green")),
    (disc(0.2j, 0.2, 0.2, "bright"),),
    (line(0, 1.6j), area(-0.3 + 1.5j, 0.3 + 1.5j, 0.15 + 1.9j, -0.15 + 1.9j, colour="yellow")),
)


def _palette(rng: Generator) -> dict[str, tuple[int, int, int]]:
    """Colours by name: each keeps its hue in every picture, roughly; clothes and walls take any."""
    night = rng.random() < 0.25
    wall = (0.15, 0.35) if night else (0.7, 0.98)

    def tint(hue: float | None, saturation: tuple[float, float], value: tuple[float, float]) -> tuple[int, int, int]:
        near = rng.random() if hue is None else hue + rng.uniform(-0.03, 0.03)
        red, green, blue = colorsys.hsv_to_rgb(near % 1, rng.uniform(*saturation), rng.uniform(*value))
        return round(255 * red), round(255 * green), round(255 * blue)

    return {
        "wall": tint(None, (0.05, 0.35), wall),
        "floor": tint(None, (0.05, 0.4), (wall[0] - 0.1, wall[1] - 0.2)),
        "ink": tint(None, (0, 0.3), (0.8, 1) if night else (0.0, 0.3)),
        "black": tint(None, (0, 0.5), (0.0, 0.15)),
        "skin": tint(0.07, (0.2, 0.5), (0.75, 1)),
        **{name: tint(None, (0.5, 0.9), (0.5, 0.95)) for name in ("shirt", "shirt2", "bright", "note")},
        "wood": tint(0.08, (0.5, 0.8), (0.4, 0.65)),
        "metal": tint(0.6, (0.05, 0.2), (0.5, 0.75)),
        "paper": tint(0.12, (0, 0.12), (0.9, 1)),
        "screen": tint(0.53, (0.3, 0.6), (0.85, 1)),
        "red": tint(0.98, (0.7, 0.9), (0.75, 0.95)),
        "yellow": tint(0.14, (0.6, 0.9), (0.9, 1)),
        "green": tint(0.33, (0.4, 0.8), (0.4, 0.75)),
    }


def draw(class_name: str, index: int) -> Image.Image:
    """Picture ``index`` (0, 1, ...) of a class: RGB, 260 x 190 pixels, the same pixels always and on every machine."""
    rng = Generator(PCG64([CLASSES.index(class_name), index]))
    colours = _palette(rng)
    scenes = SCENES[class_name]
    scene = scenes[rng.integers(len(scenes))]
    shapes = [s for item in scene for s in (item.shapes(rng) if isinstance(item, Figure) else (item,))]
    shapes, ground, unit = _placed(shapes, rng)
    canvas = Image.new("RGB", (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING), colours["wall"])
    pen = ImageDraw.Draw(canvas)
    horizon = ground + unit * rng.uniform(0, 0.4)
    pen.rectangle((0, round(OVERSAMPLING * (HEIGHT - horizon)), *canvas.size), fill=colours["floor"])
    width = rng.uniform(3.5, 6.5)
    for shape in (*_clutter(horizon, unit, rng), *shapes):
        _paint(shape, pen, colours, width)
    pixels = np.asarray(canvas.reduce(OVERSAMPLING), dtype=np.int16)
    grain = rng.integers(2, 10)
    noisy = pixels + rng.integers(-grain, grain, (HEIGHT, WIDTH, 3), dtype=np.int16, endpoint=True)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _placed(shapes: list[Shape], rng: Generator) -> tuple[list[Shape], float, float]:
    """The scene bent, tilted, perhaps mirrored, and fitted somewhere into the frame, y still up.

    Returns the shapes in pixels, the ground's height and the size of one unit, both in pixels.
    """
    points = np.array([p for shape in shapes for p in shape.points] + [0])
    waves, phases = rng.uniform(-1.3, 1.3, (2, 2)), rng.uniform(0, 2 * np.pi, 2)
    bends = [np.sin(points.real * kx + points.imag * ky + phase) for (kx, ky), phase in zip(waves, phases, strict=True)]
    points = (points + 0.12 * bends[0] + 0.08j * bends[1]) * turn(rng.uniform(-5, 5))
    if rng.random() < 0.5:
        points = -points.conj()
    low, high = complex(points.real.min(), points.imag.min()), complex(points.real.max(), points.imag.max())
    room = 0.95 * complex(WIDTH, HEIGHT)
    unit = min(room.real / (high - low).real, room.imag / (high - low).imag, 65) * rng.uniform(0.7, 1)
    slack = complex(WIDTH, HEIGHT) - unit * (high - low)
    points = unit * (points - low) + complex(slack.real * rng.uniform(0.05, 0.95), slack.imag * rng.uniform(0.05, 0.6))
    ends = np.cumsum([len(shape.points) for shape in shapes])
    parts = np.split(points, ends)
    return [replace(s, points=tuple(p)) for s, p in zip(shapes, parts, strict=False)], float(points[-1].imag), unit


def _clutter(horizon: float, unit: float, rng: Generator) -> Iterator[Shape]:
    """Up to three things that say nothing about the class, behind the scene."""
    for _ in range(rng.integers(4)):
        things, low, high = ((ON_WALL, horizon + 20, HEIGHT - 30), (ON_FLOOR, horizon - 10, horizon))[rng.integers(2)]
        at = complex(rng.uniform(0, WIDTH), rng.uniform(low, max(low, high)))
        size = unit * rng.uniform(0.5, 1.0)
        yield from (s.moved(at, size) for s in things[rng.integers(len(things))])


def _paint(shape: Shape, pen: ImageDraw.ImageDraw, colours: dict[str, tuple[int, int, int]], width: float) -> None:
    points = [(round(OVERSAMPLING * p.real), round(OVERSAMPLING * (HEIGHT - p.imag))) for p in shape.points]
    colour, thick = colours[shape.colour], max(2, round(width * shape.width * OVERSAMPLING / 2))
    if shape.fill:
        pen.polygon(points, colour, colours["ink"], width=2)
        return
    pen.line(points, colour, thick, joint="curve")
    for x, y in (points[0], points[-1]):
        pen.ellipse((x - thick // 2, y - thick // 2, x + thick // 2, y + thick // 2), colour)


def write_sample(root: Path, images_per_class: int) -> None:
    """Write the first ``images_per_class`` pictures of each class to ``root/<class>/<index:05d>.png``.

    Each file appears whole or not at all; those that are there already are kept as they are.
    """
    notice = root / "SYNTHETIC.txt"
    if not notice.exists():
        with atomic(notice) as file:
            file.write(NOTICE.encode())
    wanted = ((name, i, root / name / f"{i:05d}.png") for name in CLASSES for i in range(images_per_class))
    missing = [picture for picture in wanted if not picture[2].exists()]
    with ThreadPoolExecutor() as pool:  # one draws while others wait for the disk
        list(pool.map(_write, *zip(*missing, strict=True)))


def _write(class_name: str, index: int, path: Path) -> None:
    with atomic(path) as file:
        draw(class_name, index).save(file, "PNG", compress_level=1)
