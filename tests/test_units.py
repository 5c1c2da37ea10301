import math

import pytest

from trainer.units import count, duration, interval, parse_size, printable, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9.5, "9.5"),
        (99.94, "99.9"),
        (99.96, "100"),
        (950, "950"),
        (999.6, "1k"),
        (12_345, "12.3k"),
        (123_456, "123k"),
        (4_560_000, "4.56M"),
        (2e12, "2T"),
    ],
)
def test_count(value, text):
    assert count(value) == text


def test_count_with_a_unit_after_it():
    assert f"{count(9.895e14, ' ')}FLOP/s" == "990 TFLOP/s"


def test_size():
    assert (size(12_500), size(300 * 2**20), size(2**30), size(5 * 2**28)) == ("12 KiB", "300 MiB", "1.00 GiB", "1.25 GiB")


@pytest.mark.parametrize(
    ("text", "value"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("20kB", 20_000), ("20K", 20_000), ("1TiB", 2**40), ("700", 700), ("700B", 700)]
)
def test_parse_size(text, value):
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5iB", "5XB", "5GBs", "1e3"])
def test_what_is_not_a_size(text):
    with pytest.raises(ValueError, match=r"is not a size: give for example 5GB"):
        parse_size(text)


def test_duration():
    assert (duration(65.4), duration(90061), duration(math.nan)) == ("0:01:05", "1 day, 1:01:01", "?")


def test_control_characters_are_not_passed_on():
    assert printable("a\tb\n\x1b[2J\x00\u202eé") == "a\tb\n\ufffd[2J\ufffd\ufffdé"


def test_interval_is_steps_or_a_time():
    assert [interval(value) for value in (0, 7)] == [(0, 0.0), (7, 0.0)]
    assert [interval(value) for value in ("90s", "10m", "10min", "2h", "2.5m")] == [(0, 90.0), (0, 600.0), (0, 600.0), (0, 7200.0), (0, 150.0)]
    for wrong in (-1, "10", "m", "0s", "-1m", "1d", "10 m", ""):
        with pytest.raises(ValueError, match=r"no time|fewer than none"):
            interval(wrong)
