"""The phantom's organs: where they lie, what they are made of, and how they differ from patient to patient.

Coordinates are millimetres in the reference patient: x to the patient's left, y to the back, z to the head;
z = 0 lies at the second lumbar vertebra, z = 120 in the lower thorax. CT numbers are for 120 kVp in the
portal venous phase after contrast; the means lie in the usual clinical ranges, the textures are this
phantom's choice. Over 350 lines because it is a list: one function for each organ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2q_edge.simulation.shapes import Ellipsoid, Point, Tissue, Tubes, grow_tree

AIR = Tissue(-1000, 0)
LUNG = Tissue(-860, 22)
FAT = Tissue(-104, 5)
SKIN = Tissue(35, 5)
MUSCLE = Tissue(58, 6)
APONEUROSIS = Tissue(-20, 8)
LIVER = Tissue(108, 4)
SPLEEN = Tissue(122, 4)
PANCREAS = Tissue(92, 10)
RENAL_CORTEX = Tissue(186, 6)
RENAL_MEDULLA = Tissue(146, 6)
URINE = Tissue(12, 1)
BILE = Tissue(9, 1)
ADRENAL = Tissue(75, 4)
MYOCARDIUM = Tissue(104, 5)
ARTERY = Tissue(158, 2)
VEIN = Tissue(150, 2)
HEPATIC_VESSEL = Tissue(168, 2)
LUNG_VESSEL = Tissue(60, 4)
GUT_WALL = Tissue(88, 6)
GUT_FLUID = Tissue(18, 5)
STOOL = Tissue(-30, 70)
GAS = Tissue(-985, 2)
CORTICAL_BONE = Tissue(680, 40)
TRABECULAR_BONE = Tissue(185, 38)
RIB_MARROW = Tissue(160, 45)
DISC = Tissue(88, 5)
SPINAL_CORD = Tissue(42, 3)
CYST = Tissue(6, 1)

Shape: TypeAlias = Ellipsoid | Tubes

VERTEBRA_PITCH_MM = 28.0
VERTEBRA_LEVEL_MM = 7.0  # the middle of the second lumbar vertebra
VERTEBRA_LEVELS = tuple(VERTEBRA_LEVEL_MM + VERTEBRA_PITCH_MM * index for index in range(-2, 7))
LIVER_LOBES = (Ellipsoid((-68, -4, 52), (74, 78, 66)), Ellipsoid((2, -52, 74), (70, 32, 36), -8))


@dataclass(frozen=True)
class Layer:
    """One coat of paint.

    Attributes:
        shapes: blended into one body.
        tissue: what it is made of.
        within: name of an earlier layer (or region) that it cannot leave.
        name: under which later layers can refer to it.
        inset_mm: paint only deeper than this below the surface (negative: a rim around it).
        front_of: paint only where y is smaller: gas collects at the front of a patient lying on the back.
    """

    shapes: tuple[Shape, ...]
    tissue: Tissue
    within: str = "body"
    name: str = ""
    inset_mm: float = 0.0
    front_of: float | None = None


@dataclass(frozen=True)
class Lesion:
    """A sphere in the liver: centre and radius in mm of the reference patient, tissue in HU."""

    centre: Point
    radius: float
    tissue: Tissue


class Draw:
    """Random differences between patients."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def ellipsoid(self, shape: Ellipsoid, shift_mm: float = 3.0, stretch: float = 0.06) -> Ellipsoid:
        """The same organ in another patient."""
        moved = np.asarray(shape.centre) + self.rng.normal(0, shift_mm, 3).clip(-2 * shift_mm, 2 * shift_mm)
        sized = np.asarray(shape.axes) * self.rng.normal(1, stretch, 3).clip(1 - 2 * stretch, 1 + 2 * stretch)
        return replace(shape, centre=_point(moved), axes=_point(sized))

    def tube(self, points: Sequence[Point], radii: float | Sequence[float], shift_mm: float = 2.0) -> Tubes:
        """A tube through these points, each a little elsewhere."""
        path = np.asarray(points, np.float64)
        path = path + self.rng.normal(0, shift_mm, path.shape).clip(-2 * shift_mm, 2 * shift_mm)
        return Tubes.along(path, radii if isinstance(radii, (int, float)) else list(radii))

    def inside(self, shape: Ellipsoid, count: int, depth: float = 0.92) -> NDArray[np.float64]:
        """Points spread evenly through an ellipsoid (angle ignored), [count,3] mm."""
        directions = self.rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = depth * self.rng.random((count, 1)) ** (1 / 3)
        return np.asarray(np.asarray(shape.centre) + directions * lengths * np.asarray(shape.axes))


def _point(values: NDArray[np.float64]) -> Point:
    return float(values[0]), float(values[1]), float(values[2])


def layers(rng: np.random.Generator) -> tuple[list[Layer], list[Lesion]]:
    """All organs of one patient in painting order, and the liver lesions among them."""
    draw = Draw(rng)
    liver, lesions = _liver(draw)
    gut = [*_small_bowel(draw), *_colon(draw)]
    return [
        *_muscles(draw),
        *_lung_vessels(draw),
        *_heart(draw),
        *_spleen_and_retroperitoneum(draw),
        *gut,
        *liver,
        *_stomach(draw),
        *_kidney(draw, Ellipsoid((-63, 46, 6), (25, 29, 48), 25)),
        *_kidney(draw, Ellipsoid((66, 44, 22), (25, 29, 50), -25)),
        *_great_vessels(draw),
        *_spine(),
    ], lesions


def _muscles(draw: Draw) -> list[Layer]:
    muscles: list[Shape] = []
    for side in (-1, 1):
        muscles += [
            draw.tube([(side * 24, 40, 48), (side * 35, 42, 5), (side * 43, 40, -40)], [5, 15, 19]),
            Ellipsoid((side * 72, 70, -10), (24, 8, 62), side * -22),
        ]
    diaphragm = [
        draw.tube([(side * 9, 22, 10), (side * 13, 20, 55), (side * 27, 8, 92)], [4, 5, 3])
        for side in (-1, 1)
    ]
    erectors = [Ellipsoid((side * 33, 78, 60), (27, 15, 2000), side * -8) for side in (-1, 1)]
    return [
        *(Layer((shape,), FAT, inset_mm=-3) for shape in muscles + erectors),
        *(Layer((shape,), MUSCLE) for shape in muscles + diaphragm + erectors),
    ]


def _lung_vessels(draw: Draw) -> list[Layer]:
    sides = ((-1, (-140, -88, 45), (-18, 84, 150)), (1, (18, -88, 45), (140, 84, 150)))
    return [
        Layer(
            (grow_tree((side * 34, -2, 165), draw.rng.uniform(low, high, (420, 3)), 0.85),),
            LUNG_VESSEL,
            "lung",
        )
        for side, low, high in sides
    ]


def _heart(draw: Draw) -> list[Layer]:
    muscle = draw.ellipsoid(Ellipsoid((26, -34, 136), (60, 44, 48), -32))
    chambers = (
        Ellipsoid((46, -30, 132), (27, 16, 36), -35),
        Ellipsoid((14, -56, 130), (36, 15, 34), -22),
        Ellipsoid((-18, -16, 134), (22, 26, 34)),
    )
    return [
        Layer((Ellipsoid((2, -66, 140), (26, 34, 60)), Ellipsoid((6, 28, 140), (28, 30, 400))), FAT, "chest"),
        Layer((muscle,), FAT, "chest", inset_mm=-4),
        Layer((muscle,), MYOCARDIUM, "chest"),
        *(Layer((draw.ellipsoid(chamber, 1.5),), ARTERY, "chest") for chamber in chambers),
        Layer((draw.tube([(8, 10, 160), (10, 8, 100), (26, 4, 88)], 8),), GUT_WALL),
    ]


def _spleen_and_retroperitoneum(draw: Draw) -> list[Layer]:
    pancreas = [(82, 22, 60), (48, 2, 52), (12, -10, 44), (-16, -10, 32), (-24, -4, 12)]
    duodenum = draw.tube([(-14, -34, 32), (-36, -14, 26), (-40, -4, 0), (-30, 0, -30)], 12)
    return [
        Layer((draw.ellipsoid(Ellipsoid((110, 34, 74), (25, 50, 44), 32)),), SPLEEN, "abdomen", "spleen"),
        Layer((draw.tube(pancreas, [8, 10, 9, 12, 8]),), PANCREAS, "abdomen"),
        Layer((duodenum,), GUT_WALL, "abdomen"),
        Layer((duodenum,), GUT_FLUID, "abdomen", inset_mm=3),
        *(
            Layer((draw.tube(points, [2.5, 3, 1.8], 1),), ADRENAL, "abdomen")
            for points in (
                [(34, 22, 64), (40, 28, 72), (50, 38, 68)],
                [(-30, 24, 66), (-36, 30, 74), (-48, 38, 70)],
            )
        ),
    ]


def _colon(draw: Draw) -> list[Layer]:
    course = [(-108, 26, -50), (-108, 4, -16), (-94, -34, -4), (-58, -64, -8), (-10, -70, -12), (40, -68, 2)]
    course += [(82, -56, 22), (106, -22, 46), (112, 14, 30), (110, 24, -50)]
    points = _refine(course, 14.0)
    radii = 16 + 5 * np.sin(np.arange(len(points)) * 1.7) + draw.rng.normal(0, 1.2, len(points))
    colon = draw.tube([_point(point) for point in points], list(radii.clip(10, 23)), 1.5)
    level = float(draw.rng.uniform(-70, -58))
    return [
        Layer((colon,), FAT, "abdomen", "colon", inset_mm=-3),
        Layer((colon,), GUT_WALL, "abdomen"),
        Layer((colon,), STOOL, "abdomen", inset_mm=2.5),
        Layer((colon,), GAS, "abdomen", inset_mm=3, front_of=level),
        Layer((Ellipsoid((108, -22, 46), (13, 14, 14)),), GAS, "colon"),
    ]


def _refine(course: Sequence[Point], step_mm: float) -> NDArray[np.float64]:
    """Points about `step_mm` apart along a polyline."""
    path = np.asarray(course, np.float64)
    length = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))))
    stations = np.linspace(0, length[-1], int(length[-1] / step_mm) + 1)
    return np.stack([np.interp(stations, length, path[:, axis]) for axis in range(3)], axis=1)


def _small_bowel(draw: Draw) -> list[Layer]:
    mesentery = draw.rng.uniform((-70, -66, -45), (85, -12, 22), (120, 3))
    painted = [Layer((grow_tree((-2, -22, 10), mesentery, 0.8),), VEIN, "abdomen")]
    for _ in range(26):
        start = draw.rng.uniform((-66, -62, -40), (84, -14, 16))
        steps = draw.rng.normal(0, 1, (4, 3)) * (24, 20, 12)
        points = np.clip(start + np.cumsum(steps, axis=0), (-70, -66, -45), (88, -6, 20))
        loop = Tubes.along(points, float(draw.rng.uniform(8.5, 12.5)))
        content = GAS if draw.rng.random() < 0.15 else GUT_FLUID
        painted += [
            Layer((loop,), FAT, "abdomen", inset_mm=-1.5),
            Layer((loop,), GUT_WALL, "abdomen"),
            Layer((loop,), GUT_FLUID, "abdomen", inset_mm=2.2),
            Layer((loop,), content, "abdomen", inset_mm=2.2, front_of=float(points[:, 1].mean())),
        ]
    return painted


def _liver(draw: Draw) -> tuple[list[Layer], list[Lesion]]:
    right, left = (draw.ellipsoid(lobe) for lobe in LIVER_LOBES)
    portal = np.concatenate((draw.inside(right, 170), draw.inside(left, 60)))
    veins = np.concatenate((draw.inside(right, 130), draw.inside(left, 50)))
    gallbladder = draw.ellipsoid(Ellipsoid((-46, -60, 32), (17, 21, 26), -20))
    lesions = _lesions(draw, right)
    return [
        Layer((right, left), LIVER, "abdomen", "liver"),
        Layer((grow_tree((-40, -12, 62), portal, 0.85),), HEPATIC_VESSEL, "liver"),
        Layer((grow_tree((-24, 4, 94), veins, 0.85),), HEPATIC_VESSEL, "liver"),
        *(Layer((Ellipsoid(x.centre, (x.radius,) * 3),), x.tissue, "liver") for x in lesions),
        Layer((gallbladder,), GUT_WALL, "abdomen"),
        Layer((gallbladder,), BILE, "abdomen", inset_mm=1.5),
    ], lesions


def _lesions(draw: Draw, lobe: Ellipsoid) -> list[Lesion]:
    """Five metastases of falling contrast and one cyst, apart from one another."""
    tissues = [Tissue(LIVER.hu + contrast, LIVER.texture) for contrast in (-45, -35, -25, -18, -12)] + [CYST]
    found: list[Lesion] = []
    while len(found) < len(tissues):
        radius = float(draw.rng.uniform(4.0, 10.0))
        centre = _point(draw.inside(lobe, 1, 0.72)[0])
        gaps = [np.linalg.norm(np.subtract(centre, other.centre)) - other.radius - radius for other in found]
        if all(gap > 8.0 for gap in gaps):
            found.append(Lesion(centre, radius, tissues[len(found)]))
    return found


def _stomach(draw: Draw) -> list[Layer]:
    fundus = draw.ellipsoid(Ellipsoid((62, 6, 90), (34, 38, 32)))
    body = draw.ellipsoid(Ellipsoid((58, -40, 62), (38, 34, 46), 15))
    antrum = draw.tube([(50, -52, 46), (14, -56, 36), (-14, -40, 34)], [20, 16, 11])
    shapes = (fundus, body, antrum)
    level = float(draw.rng.uniform(-58, -44))
    return [
        Layer(shapes, FAT, "abdomen", inset_mm=-2.5),
        Layer(shapes, GUT_WALL, "abdomen"),
        Layer(shapes, GUT_FLUID, "abdomen", inset_mm=4),
        Layer(shapes, GAS, "abdomen", inset_mm=4, front_of=level),
    ]


def _kidney(draw: Draw, shape: Ellipsoid) -> list[Layer]:
    """Cortex, pyramids around the sinus, sinus fat that opens towards the aorta, and the renal pelvis."""
    kidney = draw.ellipsoid(shape)
    x, y, z = kidney.centre
    a, b, c = kidney.axes
    spread = draw.rng.uniform(5.0, 14.0, 2)
    perirenal = replace(kidney, centre=(x * 1.06, y + 4, z - 4), axes=(a + spread[0], b + spread[1], c + 6))
    inward = -np.sign(x)
    sinus = Ellipsoid((x + inward * 14, y - 8, z), (18, 9, 27), float(inward) * -28)
    pelvis = draw.tube(
        [(x + inward * 4, y - 2, z + 8), (x + inward * 24, y - 12, z - 6), (x + inward * 28, y - 6, z - 50)],
        [5, 6, 2.5],
        1,
    )
    pyramids = [
        Ellipsoid(
            (x + 14.5 * float(np.cos(angle)), y + 16.5 * float(np.sin(angle)), z + height),
            (8.0, 5.2, 8.0),
            float(np.degrees(angle)),
        )
        for height in (-36, -18, 0, 18, 36)
        for angle in np.arange(6) * (np.pi / 3) + height
    ]
    return [
        Layer((perirenal,), FAT, "abdomen"),
        Layer((kidney,), RENAL_CORTEX, "abdomen", f"kidney{x:+.0f}"),
        *(Layer((pyramid,), RENAL_MEDULLA, f"kidney{x:+.0f}") for pyramid in pyramids),
        Layer((sinus,), FAT, "abdomen"),
        Layer((pelvis,), URINE, "abdomen"),
    ]


def _great_vessels(draw: Draw) -> list[Layer]:
    aorta = draw.tube(
        [(26, 26, 190), (22, 24, 130), (14, 20, 90), (6, 14, 50), (4, 12, 0), (3, 12, -50)],
        [12.5, 12, 11.5, 11, 10, 9],
        1,
    )
    cava = draw.tube(
        [(-20, -10, 130), (-24, 2, 95), (-24, 8, 60), (-22, 12, 20), (-20, 13, -50)], [13, 14, 12, 11, 10], 1
    )
    arteries = [
        ([(5, 8, 46), (6, -8, 54), (-22, -12, 56)], 3.2),
        ([(5, 6, 38), (6, -14, 20), (4, -20, -50)], 3.6),
        ([(6, 12, 28), (52, 36, 24)], 2.8),
        ([(2, 14, 22), (-48, 38, 10)], 2.8),
    ]
    veins = [
        ([(-4, -8, 36), (-20, -14, 52), (-42, -12, 62)], 7.0),
        ([(88, 24, 64), (50, 8, 54), (4, -4, 42)], 4.0),
        ([(-4, -10, 38), (-6, -24, 0), (-6, -24, -50)], 6.0),
        ([(56, 36, 20), (22, 2, 25), (-16, 10, 26)], 4.5),
        ([(-50, 38, 8), (-24, 14, 14)], 4.5),
    ]
    return [
        *(Layer((draw.tube(points, radius, 1.5),), ARTERY, "abdomen") for points, radius in arteries),
        *(Layer((draw.tube(points, radius, 1.5),), VEIN, "abdomen") for points, radius in veins),
        Layer((cava,), VEIN),
        Layer((aorta,), ARTERY),
    ]


def _spine() -> list[Layer]:
    """Neural arches with their processes; vertebral bodies and discs are painted by the phantom itself."""
    canal = Ellipsoid((0, 66, 60), (10.5, 8.5, 4000))
    bones: list[Shape] = [Ellipsoid((0, -97, 152), (15, 5, 52))]  # the sternum's tip
    for level in VERTEBRA_LEVELS:
        bones.append(Tubes.along([(0, 76, level - 2), (0, 95, level - 9)], [5.5, 3.5]))
        for side in (-1, 1):
            bones.append(
                Tubes.along(
                    [(side * 13, 52, level + 5), (side * 14, 66, level + 3), (side * 2, 77, level - 4)],
                    [4.5, 5, 5],
                )
            )
            bones.append(Tubes.along([(side * 14, 66, level + 3), (side * 40, 71, level + 1)], [4.5, 3.5]))
            bones.append(Tubes.along([(side * 15, 68, level + 12), (side * 14, 71, level - 15)], [5, 5]))
    return [
        *(Layer((bone,), CORTICAL_BONE) for bone in bones),
        *(Layer((bone,), TRABECULAR_BONE, inset_mm=1.8) for bone in bones),
        Layer((canal,), FAT),
        Layer((canal,), URINE, inset_mm=1.5),
        Layer((Ellipsoid((0, 66, 60), (5.5, 4.2, 4000)),), SPINAL_CORD),
    ]
