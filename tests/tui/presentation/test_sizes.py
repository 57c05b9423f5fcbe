"""Sizes in bytes: parsing and formatting."""

import click
import pytest

from retcon.tui.cli.options import SIZE
from retcon.tui.presentation.format import format_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5_000_000_000),
        ("500MB", 500_000_000),
        ("1GiB", 2**30),
        ("40kB", 40_000),
        ("1.5 M", 1_500_000),
        ("7", 7),
    ],
)
def test_sizes_are_parsed(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "5 apples", "-1GB", "0", "GB", "1e9", "9" * 30])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a valid size"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_500_000, "3.5 MB"),
        (538_000_000, "538.0 MB"),
        (2.5e12, "2500.0 GB"),
    ],
)
def test_sizes_are_formatted(size: float, text: str) -> None:
    assert format_size(size) == text
