"""Soft-edged three-dimensional shapes, cut by an axial plane: what the phantom's organs are made of.

Every shape answers with a signed distance in mm, negative inside; `Plane.paint` turns it into the share of
each pixel that the shape covers, so edges are anti-aliased without supersampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2q_edge.arrays import FloatArray

Point: TypeAlias = tuple[float, float, float]
Box: TypeAlias = tuple[slice, slice]

FAR_MM = 1e3
WARP_MM = 4.0  # the warp moves no coordinate further than this


class Tissue(NamedTuple):
    """Mean CT number at 120 kVp and the standard deviation of the tissue's own texture, both in HU."""

    hu: float
    texture: float


class Warp:
    """A smooth displacement of the axial plane that varies along z: no organ keeps its textbook outline."""

    def __init__(self, rng: np.random.Generator, waves: int = 4) -> None:
        self._amplitude = WARP_MM / waves
        self._frequency = (
            2 * np.pi / rng.uniform(90.0, 220.0, (2, waves, 3)) * rng.choice((-1, 1), (2, waves, 3))
        )
        self._phase = rng.uniform(0.0, 2 * np.pi, (2, waves))

    def __call__(self, x: FloatArray, y: FloatArray, z: float) -> tuple[FloatArray, FloatArray]:
        """Displaced coordinates, [H,W] each, of the grid x [1,W], y [H,1] at height z; all in mm."""
        moved = []
        for axis in range(2):
            shift = np.zeros((y.shape[0], x.shape[1]), np.float32)
            for (fx, fy, fz), phase in zip(self._frequency[axis], self._phase[axis], strict=True):
                # sin(a + b) by its addition theorem: one-dimensional sines, no 2-D transcendental function.
                a, b = fx * x, fy * y + np.float32(fz * z + phase)
                shift += np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b)
            moved.append(np.float32(self._amplitude) * shift)
        return x + moved[0], y + moved[1]


class Plane:
    """One axial plane being painted.

    Attributes:
        x, y: coordinates of the pixel centres, mm, [1,W] and [H,1]; x to the patient's left, y to the back.
        warped: the same through the anatomy's warp, [H,W] each.
        z: height in mm, towards the head.
        pixel_mm: pixel spacing, in the anatomy's millimetres.
        hu: float32 [H,W], mean CT number.
        texture: float32 [H,W], standard deviation of the texture, HU.
    """

    def __init__(
        self, x: FloatArray, y: FloatArray, z: float, pixel_mm: float, warp: Warp, tissue: Tissue
    ) -> None:
        self.x, self.y, self.z, self.pixel_mm = x, y, z, pixel_mm
        self.warped = warp(x, y, z)
        shape = (y.shape[0], x.shape[1])
        self.hu = np.full(shape, tissue.hu, np.float32)
        self.texture = np.full(shape, tissue.texture, np.float32)

    def box(self, low: tuple[float, float], high: tuple[float, float]) -> Box:
        """Rows and columns that hold the rectangle (x, y) `low`..`high` in mm, wherever the warp takes it."""
        columns = np.searchsorted(self.x[0], (low[0] - WARP_MM, high[0] + WARP_MM))
        rows = np.searchsorted(self.y[:, 0], (low[1] - WARP_MM, high[1] + WARP_MM))
        return slice(rows[0], rows[1]), slice(columns[0], columns[1])

    def coverage(self, distance: FloatArray) -> FloatArray:
        """Share of each pixel inside a shape, in [0, 1], from the signed distance in mm."""
        return np.asarray(np.clip(np.float32(0.5) - distance * np.float32(1 / self.pixel_mm), 0, 1))

    def paint(self, cover: FloatArray, tissue: Tissue, box: Box | None = None) -> None:
        """Lay a tissue over the plane where `cover` (in [0, 1], the box's shape) says."""
        where = box if box is not None else (slice(None), slice(None))
        for image, value in ((self.hu, tissue.hu), (self.texture, tissue.texture)):
            part = image[where]
            part += cover * (np.float32(value) - part)


class Cut(NamedTuple):
    """A shape cut by a plane: signed distance in mm over the rows and columns of `box`."""

    box: Box
    distance: FloatArray


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid whose x-y axes are turned by `angle` degrees (from x towards y)."""

    centre: Point
    axes: Point
    angle: float = 0.0

    def cut(self, plane: Plane) -> Cut | None:
        """Its cross-section, or None where the plane passes it by."""
        if abs(plane.z - self.centre[2]) > self.axes[2] + 2.0:
            return None
        reach = max(self.axes[:2]) + 2.0
        (cx, cy, cz), (a, b, c) = self.centre, self.axes
        box = plane.box((cx - reach, cy - reach), (cx + reach, cy + reach))
        x, y = plane.warped[0][box] - np.float32(cx), plane.warped[1][box] - np.float32(cy)
        cos, sin = np.float32(np.cos(np.radians(self.angle))), np.float32(np.sin(np.radians(self.angle)))
        u, v, w = (x * cos + y * sin) / np.float32(a), (y * cos - x * sin) / np.float32(b), (plane.z - cz) / c
        radius = np.sqrt(u * u + v * v + np.float32(w * w)) + np.float32(1e-6)
        # First-order distance: the implicit function over the length of its gradient.
        slope = np.sqrt(
            (u / np.float32(a)) ** 2 + (v / np.float32(b)) ** 2 + np.float32((w / c) ** 2)
        ) + np.float32(1e-6)
        return Cut(box, (radius - 1) * radius / slope)


@dataclass(frozen=True)
class Tubes:
    """Round segments of changing radius: gut, vessels, vessel trees.

    Attributes:
        starts, ends: float64 [N,3], mm.
        radii: float64 [N,2], mm, at the start and at the end.
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    radii: NDArray[np.float64]

    @classmethod
    def along(cls, points: list[Point] | NDArray[np.float64], radii: float | list[float]) -> Tubes:
        """A tube through points; one radius, or one for each point."""
        path = np.asarray(points, np.float64)
        each = np.broadcast_to(np.asarray(radii, np.float64), len(path))
        return cls(path[:-1], path[1:], np.stack((each[:-1], each[1:]), axis=1))

    def cut(self, plane: Plane) -> Cut | None:
        """The union of the segments' cross-sections, or None where the plane meets none."""
        reach = self.radii.max(axis=1) + 2.0
        low, high = np.minimum(self.starts, self.ends), np.maximum(self.starts, self.ends)
        near = np.flatnonzero((low[:, 2] - reach < plane.z) & (plane.z < high[:, 2] + reach))
        if not near.size:
            return None
        margin = reach[near, None]
        lowest, highest = (low[near, :2] - margin).min(axis=0), (high[near, :2] + margin).max(axis=0)
        rows, columns = plane.box((lowest[0], lowest[1]), (highest[0], highest[1]))
        distance = np.full((rows.stop - rows.start, columns.stop - columns.start), FAR_MM, np.float32)
        for index in near:
            piece = self._segment(plane, int(index), float(reach[index]))
            if piece is not None:
                part = distance[_within(piece.box, (rows, columns))]
                np.minimum(part, piece.distance, out=part)
        return Cut((rows, columns), distance)

    def _segment(self, plane: Plane, index: int, reach: float) -> Cut | None:
        start, step = self.starts[index], self.ends[index] - self.starts[index]
        near_start, near_end = self._near(plane.z, start[2], step[2], reach)
        a, b = start + near_start * step, start + near_end * step
        low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        box = plane.box((low[0], low[1]), (high[0], high[1]))
        if box[0].start >= box[0].stop or box[1].start >= box[1].stop:
            return None
        x, y = plane.warped[0][box] - np.float32(start[0]), plane.warped[1][box] - np.float32(start[1])
        z = np.float32(plane.z - start[2])
        dx, dy, dz = (np.float32(value) for value in step)
        along = np.clip((x * dx + y * dy + z * dz) / np.float32(max(float(step @ step), 1e-6)), 0, 1)
        gap = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2 + (z - along * dz) ** 2)
        first, last = self.radii[index]
        return Cut(box, gap - np.float32(first) - along * np.float32(last - first))

    @staticmethod
    def _near(z: float, start: float, step: float, reach: float) -> tuple[float, float]:
        """The part of a segment, in [0, 1] along it, that lies within `reach` of the plane."""
        if abs(step) < 1e-6:
            return 0.0, 1.0
        ends = sorted(((z - reach - start) / step, (z + reach - start) / step))
        return float(np.clip(ends[0], 0, 1)), float(np.clip(ends[1], 0, 1))


def grow_tree(root: Point, targets: NDArray[np.float64], tip_radius: float) -> Tubes:
    """A vessel tree from `root` that reaches every target, [N,3] mm.

    Targets are halved across their longest extent, branch by branch; a branch that feeds n targets has the
    radius `tip_radius` * n**(1/3) (Murray's law, PNAS 12, 1926).
    """
    segments: list[tuple[NDArray[np.float64], NDArray[np.float64], float, float]] = []

    def grow(start: NDArray[np.float64], radius: float, points: NDArray[np.float64]) -> None:
        own = tip_radius * len(points) ** (1 / 3)
        end = points[0] if len(points) == 1 else start + 0.55 * (points.mean(axis=0) - start)
        segments.append((start, end, radius, own))
        if len(points) > 1:
            axis = int(np.argmax(np.ptp(points, axis=0)))
            order = points[np.argsort(points[:, axis])]
            for half in (order[: len(order) // 2], order[len(order) // 2 :]):
                grow(end, own, half)

    grow(np.asarray(root, np.float64), tip_radius * len(targets) ** (1 / 3), targets)
    starts, ends, first, last = zip(*segments, strict=True)
    return Tubes(np.array(starts), np.array(ends), np.stack((first, last), axis=1))


def blended_cut(shapes: Sequence[Ellipsoid | Tubes], plane: Plane, blend_mm: float) -> Cut | None:
    """Cross-section of the union of shapes, with fillets of about `blend_mm` where they meet."""
    cuts = [cut for shape in shapes if (cut := shape.cut(plane)) is not None]
    if len(cuts) < 2:
        return cuts[0] if cuts else None
    rows = slice(min(cut.box[0].start for cut in cuts), max(cut.box[0].stop for cut in cuts))
    columns = slice(min(cut.box[1].start for cut in cuts), max(cut.box[1].stop for cut in cuts))
    distance = np.full((rows.stop - rows.start, columns.stop - columns.start), FAR_MM, np.float32)
    for cut in cuts:
        part = distance[_within(cut.box, (rows, columns))]
        part[...] = _smooth_union(part, cut.distance, blend_mm)
    return Cut((rows, columns), distance)


def _within(inner: Box, outer: Box) -> Box:
    """`inner`'s rows and columns counted from `outer`'s corner."""
    (rows, columns), (top, left) = inner, (outer[0].start, outer[1].start)
    return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)


def _smooth_union(a: FloatArray, b: FloatArray, blend_mm: float) -> FloatArray:
    """Polynomial smooth minimum of two signed distances."""
    share = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0) / np.float32(blend_mm)
    return np.asarray(np.minimum(a, b) - share * share * np.float32(blend_mm / 4))
