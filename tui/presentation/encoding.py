"""Fallback characters for terminals whose encoding is not UTF-8: same width, and never an exception."""

import codecs
import sys
from io import TextIOWrapper

# None of heatmap.ESTIMATED_GLYPHS: an exact cell must not look like an estimated one.
_FALLBACK = {
    **dict(zip("·░▒▓█", " -=%@", strict=True)),
    **dict(zip("…⏎␍⇥␣◌", "~\\\\>_'", strict=True)),
    **dict(zip("→←↑↓↶✓✗●○◆◉▲▶•×–‖¬", "><^v<+x*oO@^>*x-|-", strict=True)),
    **dict(zip("─│┊┈╭╮╰╯┌┐└┘┬┴┼", "-|:-..........+", strict=True)),
    **dict(zip("▁▂▃▄▅▆▇▌▐▏▎▍▋▊▉", ".,_-=+*[]|||###", strict=True)),
}
_BRAILLE = range(0x2800, 0x2900)
_HANDLER = "retcon-ascii-fallback"


def install_ascii_fallback() -> None:
    """Make stdout and stderr replace each character that their encoding lacks by a similar one, or by `?`."""
    codecs.register_error(_HANDLER, _replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not supports_unicode(stream.encoding):
            stream.reconfigure(errors=_HANDLER)


def supports_unicode(encoding: str | None) -> bool:
    """Whether an encoding covers all of Unicode. None, the encoding of a stream in memory, does."""
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_fallback_for, error.object[error.start : error.end])), error.end


def _fallback_for(char: str) -> str:
    if ord(char) in _BRAILLE:  # a piece of a curve: by its number of dots
        return " .:*"[min(3, (ord(char) - _BRAILLE.start).bit_count())]
    return _FALLBACK.get(char, "?")
