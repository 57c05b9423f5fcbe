"""Read a stranger's .npz: arrays by name, without pickle."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError

# What zipfile and NumPy raise for a file that somebody has broken or made up.
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, SyntaxError, ValueError,
           TypeError, EOFError, KeyError, RuntimeError, OverflowError, MemoryError, OSError)  # fmt: skip


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
        InputError: it is no .npz, broken, or one of its members is no plain array.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
    except _BROKEN as error:
        raise InputError(f"{path} cannot be read as .npz without pickle ({error}).") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path} cannot be read as .npz: its member {name!r} is no array.")
    return found
