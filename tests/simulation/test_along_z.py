"""Noise shared by neighboring slices."""

import numpy as np
import pytest

pytest.importorskip("numba")

from n2q_edge.simulation.along_z import DEFAULT_RHO, AlongZ, measured_rho

SHAPE = (200, 200)  # a correlation is known to 1/200


def test_neighbors_share_rho_and_the_next_but_one_its_square() -> None:
    source = AlongZ(0.4)
    slices = [
        source.slice(np.random.default_rng(number), neighbor=True)(SHAPE).ravel() for number in range(3)
    ]
    found = np.corrcoef(slices)
    assert found[0, 1] == pytest.approx(0.4, abs=0.02)
    assert found[1, 2] == pytest.approx(0.4, abs=0.02)
    assert found[0, 2] == pytest.approx(0.16, abs=0.02)
    assert np.std(slices, axis=1) == pytest.approx(1.0, abs=0.02)


def test_after_a_gap_noise_starts_afresh() -> None:
    source = AlongZ(0.9)
    first = source.slice(np.random.default_rng(0), neighbor=False)(SHAPE)
    second = source.slice(np.random.default_rng(1), neighbor=False)(SHAPE)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02


def test_what_a_slice_does_with_its_numbers_does_not_reach_the_next() -> None:
    source = AlongZ(0.5)
    first = source.slice(np.random.default_rng(0), neighbor=True)(SHAPE)
    kept = first.copy()
    first *= 100
    second = source.slice(np.random.default_rng(1), neighbor=True)(SHAPE)
    assert np.corrcoef(kept.ravel(), second.ravel())[0, 1] == pytest.approx(0.5, abs=0.02)
    assert second.std() == pytest.approx(1.0, abs=0.02)


def test_without_neighbors_that_can_be_measured_there_is_a_default() -> None:
    air = np.full((128, 128), -1000.0, np.float32)
    assert measured_rho([], 1.0) == DEFAULT_RHO
    assert measured_rho([(air, air)], 1.0) == DEFAULT_RHO
