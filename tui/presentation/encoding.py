"""What is printed where the terminal's encoding is not UTF-8: signs of the same width, and never a traceback."""

import codecs
import sys
from io import TextIOWrapper

# Not those of an estimate (see heatmap.ESTIMATE): nobody shall take one for the other.
_INSTEAD = {
    **dict(zip("·░▒▓█", " -=%@", strict=True)),
    **dict(zip("…⏎␍⇥␣◌", "~\\\\>_'", strict=True)),
    **dict(zip("→←↑↓↶✓✗●○◆◉▲▶•×–‖¬", "><^v<+x*oO@^>*x-|-", strict=True)),
    **dict(zip("─│┊┈╭╮╰╯┌┐└┘┬┴┼", "-|:-..........+", strict=True)),
    **dict(zip("▁▂▃▄▅▆▇▌▐▏▎▍▋▊▉", ".,_-=+*[]|||###", strict=True)),
}
_BRAILLE = range(0x2800, 0x2900)
_NAME = "retcon-look-alikes"


def install_ascii_fallback() -> None:
    """From now on standard output and error print a look-alike, or `?`, for what their encoding lacks."""
    codecs.register_error(_NAME, _look_alikes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not supports_unicode(stream.encoding):
            stream.reconfigure(errors=_NAME)


def supports_unicode(encoding: str | None) -> bool:
    """Whether an encoding holds all there is. None, of a stream in memory, does."""
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


def _look_alikes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_look_alike, error.object[error.start : error.end])), error.end


def _look_alike(char: str) -> str:
    if ord(char) in _BRAILLE:  # of curves
        return " .:*"[min(3, (ord(char) - _BRAILLE.start).bit_count())]
    return _INSTEAD.get(char, "?")
