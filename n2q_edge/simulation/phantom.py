"""A synthetic patient, from the lower thorax to the kidneys, drawn by seed and cut at any height.

Drawn from smooth three-dimensional shapes, so it is continuous along z and has no grid of its own: any matrix
and pixel size shows the same patient. Three planes across the slice thickness are averaged (partial volume),
tissue texture is added, and the result is blurred by the scanner's point spread. There is no noise in it:
see `n2q_edge.simulation.series`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from n2q_edge.arrays import FloatArray
from n2q_edge.simulation import organs
from n2q_edge.simulation.organs import Layer, Lesion
from n2q_edge.simulation.shapes import FAR_MM, Cut, Plane, Tissue, Warp, blended_cut
from n2q_edge.simulation.texture import Texture

Z_RANGE_MM = (0.0, 120.0)  # kidneys to the lower thorax
SLICE_THICKNESS_MM = 5.0
SUBPLANES = (-1 / 3, 0.0, 1 / 3)  # of the slice thickness
POINT_SPREAD_MM = 0.6  # standard deviation; 1.4 mm FWHM, a soft-tissue kernel

SKIN_MM = 2.0
WALL_MM = 14.0  # muscle between the fat under the skin and the body cavity
BODY_HALF_WIDTH_MM = 164.0
BODY_HALF_DEPTH_MM = 110.0
BODY_CENTRE_Y_MM = -4.0
RIB_PITCH_MM = 27.0
RIB_SLOPE = 0.5  # mm that a rib sinks for each mm along the chest wall
RIB_ARC_RADIUS_MM = 125.0
RIB_LENGTHS_MM = (100.0, 170.0, 240.0, 285.0, 310.0, 330.0)  # twelfth, eleventh, ... seventh
TWELFTH_RIB_HEAD_MM = 71.0
DOMES = ((-72.0, 0.0, 104.0), (74.0, 4.0, 99.0))  # x, y and height of the two domes of the diaphragm, mm
DOME_DROP_MM = 56.0
DOME_OUTER_RADIUS_MM, DOME_INNER_RADIUS_MM = 70.0, 165.0  # towards the ribs and towards the middle
DOME_BACK_RADIUS_MM, DOME_FRONT_RADIUS_MM = 80.0, 105.0
BLEND_MM = 14.0  # fillet where the parts of one organ meet

TABLE_SKIN = Tissue(350, 10)  # carbon fibre and paint, thinner than a pixel
TABLE_FOAM = Tissue(-940, 6)
MATTRESS = Tissue(-880, 10)
TABLE_RADIUS_MM = 520.0
TABLE_HALF_WIDTH_MM = 205.0

FINE_TEXTURE_MM = 1.3
COARSE_TEXTURE_MM = 12.0
COARSE_SHARE = 0.5  # of the fine texture's amplitude
STRAND_MM = 4.5
STRAND_HU = 45.0  # height of the fibrous strands in fat


class Phantom:
    """One patient.

    Args:
        seed: which patient: size, fat, position and shape of organs, vessels, lesions and texture all follow.

    Attributes:
        lesions: the spheres hidden in the liver, in the reference patient's mm.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng((seed, 0))
        self._scale = (float(rng.uniform(0.93, 1.08)), float(rng.uniform(0.93, 1.06)))
        self._fat_mm = float(rng.uniform(8.0, 20.0))
        self._warp = Warp(rng)
        self._layers, lesions = organs.layers(rng)
        self.lesions: list[Lesion] = lesions
        self._fine = Texture(FINE_TEXTURE_MM, rng)
        self._coarse = Texture(COARSE_TEXTURE_MM, rng)
        self._strands = Texture(STRAND_MM, rng)

    def slice_hu(self, z_mm: float, size: int = 512, pixel_mm: float = 0.7421875) -> FloatArray:
        """The noise-free slice at a height.

        Args:
            z_mm: middle of the slice, mm towards the head; the anatomy fills `Z_RANGE_MM`.
            size: rows and columns.
            pixel_mm: pixel spacing, mm.

        Returns:
            float32 [size, size], HU; row 0 is the patient's front, column 0 the patient's right.
        """
        grid = ((np.arange(size) - (size - 1) / 2) * pixel_mm).astype(np.float32)
        x, y = grid[None, :], grid[:, None]
        hu = np.zeros((size, size), np.float32)
        texture = np.zeros((size, size), np.float32)
        for offset in SUBPLANES:
            plane = self._plane(x, y, z_mm + offset * SLICE_THICKNESS_MM, pixel_mm)
            hu += plane.hu / np.float32(len(SUBPLANES))
            texture += plane.texture / np.float32(len(SUBPLANES))
        hu += self._texture(x, y, z_mm, hu, texture)
        return np.asarray(ndimage.gaussian_filter(hu, POINT_SPREAD_MM / pixel_mm, truncate=3.0))

    def _texture(
        self, x: FloatArray, y: FloatArray, z: float, hu: FloatArray, amplitude: FloatArray
    ) -> FloatArray:
        norm = np.float32(1 / np.hypot(1.0, COARSE_SHARE))
        grain = self._fine.at(x, y, z) + np.float32(COARSE_SHARE) * self._coarse.at(x, y, z)
        fat = np.clip(1 - np.abs(hu - np.float32(organs.FAT.hu)) / 40, 0, 1)
        # Fibrous septa: thin sheets where a smooth field crosses zero.
        septa = np.exp(-((self._strands.at(x, y, z) / np.float32(0.10)) ** 2))
        return np.asarray(amplitude * grain * norm + fat * np.float32(STRAND_HU) * septa)

    def _plane(self, x: FloatArray, y: FloatArray, z: float, pixel_mm: float) -> Plane:
        sx, sy = self._scale
        plane = Plane(
            x / np.float32(sx), y / np.float32(sy), z, pixel_mm / min(sx, sy), self._warp, organs.AIR
        )
        self._paint_table(plane)
        regions = self._paint_trunk(plane)
        cuts: dict[tuple[int, ...], Cut | None] = {}  # wall, content and gas of one organ share its outline
        for layer in self._layers:
            key = tuple(id(shape) for shape in layer.shapes)
            if key not in cuts:
                cuts[key] = blended_cut(layer.shapes, plane, BLEND_MM)
            self._paint_layer(plane, layer, cuts[key], regions)
        self._paint_vertebra(plane)
        return plane

    def _paint_table(self, plane: Plane) -> None:
        """A curved carbon-fibre top with a foam core under a thin mattress."""
        x, y = plane.x, plane.y
        top = np.float32(BODY_CENTRE_Y_MM + BODY_HALF_DEPTH_MM + 1.0) - x * x / np.float32(
            2 * TABLE_RADIUS_MM
        )
        beside = np.abs(x) - np.float32(TABLE_HALF_WIDTH_MM)
        for tissue, upper, lower in (
            (MATTRESS, 0.0, 9.0),
            (TABLE_FOAM, 9.0, 44.0),
            (TABLE_SKIN, 9.0, 10.6),
            (TABLE_SKIN, 42.4, 44.0),
        ):
            distance = np.maximum(
                np.maximum(top + np.float32(upper) - y, y - top - np.float32(lower)), beside
            )
            plane.paint(plane.coverage(distance), tissue)

    def _paint_trunk(self, plane: Plane) -> dict[str, FloatArray]:
        """Skin, fat, wall, ribs, lungs and diaphragm; returns distances to what confines organs."""
        x, y = plane.warped
        y = y - np.float32(BODY_CENTRE_Y_MM)
        skin = _superellipse_distance(x, y, BODY_HALF_WIDTH_MM, BODY_HALF_DEPTH_MM)
        angle = np.arctan2(np.abs(x), y)  # from the spine
        fat = np.float32(SKIN_MM) + np.float32(self._fat_mm) * (1 + np.float32(0.25) * np.cos(2 * angle))
        muscle = skin + fat
        cavity = muscle + np.float32(WALL_MM)
        dome, steepness = _diaphragm(plane)
        abdomen = np.maximum(cavity + 1, (np.float32(plane.z) - dome) / steepness + 2)
        lung = np.maximum(cavity, (dome - np.float32(plane.z)) / steepness)

        for distance, tissue in (
            (skin, organs.SKIN),
            (skin + np.float32(SKIN_MM), organs.FAT),
            (muscle, organs.MUSCLE),
        ):
            plane.paint(plane.coverage(distance), tissue)
        self._paint_wall_planes(plane, muscle)
        self._paint_ribs(plane, cavity, angle)
        # The cavity starts as muscle: what neither abdomen nor lung covers is the diaphragm.
        for distance, tissue in ((cavity, organs.MUSCLE), (abdomen, organs.FAT), (lung, organs.LUNG)):
            plane.paint(plane.coverage(distance), tissue)
        return {"body": skin, "chest": cavity, "abdomen": abdomen, "lung": lung}

    def _paint_wall_planes(self, plane: Plane, muscle: FloatArray) -> None:
        """The thin fat between the three flat muscles at the sides, the seams around the rectus."""
        fade = np.clip((60 - plane.z) / 30, 0, 1) * np.clip((np.abs(plane.x) - 70) / 25, 0, 1)
        for depth in (WALL_MM / 3, 2 * WALL_MM / 3):
            sheet = plane.coverage(np.abs(muscle + np.float32(depth)) - np.float32(0.6))
            plane.paint(sheet * fade.astype(np.float32), organs.FAT)
        x, y = plane.warped
        beside_rectus = np.maximum(np.abs(np.abs(x) - 58), 2.5) - 4
        midline = np.minimum(np.abs(x) - np.float32(2.5), beside_rectus)
        seam = np.maximum(
            np.maximum(midline, y + 60), np.abs(muscle + np.float32(WALL_MM / 2)) - np.float32(WALL_MM / 2)
        )
        plane.paint(plane.coverage(seam), organs.APONEUROSIS)

    def _paint_ribs(self, plane: Plane, cavity: FloatArray, angle: FloatArray) -> None:
        """Ribs as sloping rods in the chest wall: a slice cuts each into an oblique ellipse."""
        arc = angle * np.float32(RIB_ARC_RADIUS_MM)
        number = (np.float32(plane.z - TWELFTH_RIB_HEAD_MM) + np.float32(RIB_SLOPE) * arc) / np.float32(
            RIB_PITCH_MM
        )
        index = np.rint(number)
        length = np.take(
            np.array(RIB_LENGTHS_MM, np.float32), index.astype(np.intp).clip(0, len(RIB_LENGTHS_MM) - 1)
        )
        ends = np.maximum(
            np.maximum(arc - length, 24 - arc), np.where(index < 0, np.float32(99), np.float32(-99))
        )
        height = (number - index) * np.float32(RIB_PITCH_MM / 6.5)
        depth = (cavity - np.float32(5.5)) / np.float32(4.0)
        rod = (np.sqrt(height * height + depth * depth) - 1) * np.float32(4.0)
        rib = np.maximum(rod, ends)
        plane.paint(plane.coverage(rib), organs.CORTICAL_BONE)
        plane.paint(plane.coverage(rib + np.float32(1.6)), organs.RIB_MARROW)

    def _paint_layer(
        self, plane: Plane, layer: Layer, cut: Cut | None, regions: dict[str, FloatArray]
    ) -> None:
        if cut is None or layer.within not in regions:
            return
        box = cut.box
        wall = regions[layer.within][box]
        if layer.name:
            regions[layer.name] = np.full_like(plane.hu, FAR_MM)
            regions[layer.name][box] = np.maximum(cut.distance, wall)
        inset = np.float32(layer.inset_mm)
        # Content keeps its depth below the region's border too; a rim around the organ does not cross it.
        distance = np.maximum(cut.distance + inset, wall + np.maximum(inset, 0))
        if layer.front_of is not None:
            distance = np.maximum(distance, plane.y[box[0]] - np.float32(layer.front_of))
        plane.paint(plane.coverage(distance), layer.tissue, box)

    def _paint_vertebra(self, plane: Plane) -> None:
        """Vertebral bodies with waist, end plates and trabeculae, and the discs between them."""
        box = plane.box((-28, 20), (28, 66))
        x, y = plane.warped[0][box], plane.warped[1][box] - np.float32(44)
        pitch = organs.VERTEBRA_PITCH_MM
        height = (plane.z - organs.VERTEBRA_LEVEL_MM + pitch / 2) % pitch - pitch / 2
        waist = 2.0 * max(0.0, 1 - (height / 11) ** 2)
        outline = _superellipse_distance(x, y, 23 - waist, 17 - waist)
        bone = np.maximum(outline, np.float32(abs(height) - 11))
        plane.paint(plane.coverage(outline), organs.DISC, box)
        plane.paint(plane.coverage(bone), organs.CORTICAL_BONE, box)
        plane.paint(plane.coverage(bone + np.float32(1.5)), organs.TRABECULAR_BONE, box)


@lru_cache(maxsize=4)
def _patient(seed: int) -> Phantom:
    return Phantom(seed)


def slice_hu(z_mm: float, size: int = 512, pixel_mm: float = 0.7421875, seed: int = 0) -> FloatArray:
    """`Phantom(seed).slice_hu`, keeping the last few patients at hand."""
    return _patient(seed).slice_hu(z_mm, size, pixel_mm)


def _superellipse_distance(x: FloatArray, y: FloatArray, a: float, b: float) -> FloatArray:
    """First-order signed distance, mm, to |x/a|^2.5 + |y/b|^2.5 = 1: fuller than an ellipse."""
    u, v = np.abs(x) / np.float32(a), np.abs(y) / np.float32(b)
    u15, v15 = u * np.sqrt(u), v * np.sqrt(v)
    total = u15 * u + v15 * v + np.float32(1e-6)
    radius = total ** np.float32(0.4)
    slope = np.sqrt((u15 / np.float32(a)) ** 2 + (v15 / np.float32(b)) ** 2) * radius / total + np.float32(
        1e-6
    )
    return np.asarray((radius - 1) / slope)


def _diaphragm(plane: Plane) -> tuple[FloatArray, FloatArray]:
    """Height of the diaphragm over every pixel, mm, and the length of its slope (1 where it is level)."""
    x, y = plane.warped
    dome = np.full_like(x, -1e3)
    steepness = np.ones_like(x)
    for cx, cy, apex in DOMES:
        across, along = x - np.float32(cx), y - np.float32(cy)
        rx = np.where(
            across * np.float32(cx) > 0, np.float32(DOME_OUTER_RADIUS_MM), np.float32(DOME_INNER_RADIUS_MM)
        )
        ry = np.where(along > 0, np.float32(DOME_BACK_RADIUS_MM), np.float32(DOME_FRONT_RADIUS_MM))
        u, v = across / rx, along / ry
        height = np.float32(apex) - np.float32(DOME_DROP_MM) * (u * u + v * v)
        gradient = np.float32(2 * DOME_DROP_MM) * np.hypot(u / rx, v / ry)
        higher = height > dome
        steepness = np.where(higher, np.sqrt(1 + gradient * gradient), steepness)
        dome = np.where(higher, height, dome)
    return dome, steepness
