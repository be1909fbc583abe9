"""The depth rule: ends to ends, proportional between."""

import pytest

from kvlab.align.layers import depth


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (6, 4, [0, 2, 3, 5]),
        (2, 6, [0, 0, 0, 1, 1, 1]),
        (28, 22, [0, 1, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 21, 22, 23, 24, 26, 27]),
        (5, 1, [4]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_depth(teacher, student, expected):
    assert [layers[0] for layers in depth(teacher, student).teacher_layers] == expected
