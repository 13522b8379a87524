"""Window sums against numpy's own sliding windows."""

from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.quality.sliding_sums import every_second_row_sums, row_sums


@pytest.mark.parametrize("rows", [1, 2, 7, 12])
def test_sums_are_those_of_all_windows_that_fit(rows: int) -> None:
    image = np.random.default_rng(0).integers(0, 100, (rows, 5))
    for size in range(1, rows + 1):
        expected = np.lib.stride_tricks.sliding_window_view(image, size, axis=0).sum(axis=-1)
        np.testing.assert_array_equal(row_sums(image, size), expected)
        np.testing.assert_array_equal(every_second_row_sums(image, size), expected[::2])


def test_columns_are_the_rows_of_the_transposed_view() -> None:
    image = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(row_sums(image.T, 3).T, [[3, 6], [15, 18], [27, 30]])  # 0+1+2, 1+2+3, ...
