"""What the command shows of minimal filtering is what its authors and the issue of precision say."""

from __future__ import annotations

import pytest

from trainer.compress.numerics import errors, main


def test_multiplications_and_errors_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    out = capsys.readouterr().out
    assert "56 x 56        2.25        4.00\n" in out  # Lavin and Gray 2015, sections 4.1 and 4.2
    assert "5 x 8          1.88        2.50\n" in out  # 360 / (6 * 2 * 16) and 360 / (4 * 36)


def test_errors_are_those_of_the_literature() -> None:
    found = {row[0]: [float(cell) for cell in row[2:]] for row in errors()}
    assert found["float32"] == [pytest.approx(2.6e-7, rel=0.1), pytest.approx(1.7e-6, rel=0.1)]
    assert found["int8, one scale"][1] > 1 > 5 * found["int8, a scale for each position"][1]
