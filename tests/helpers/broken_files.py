"""Hypothesis strategies for broken files: valid JSON, arrays, tensors and bytes with a few changes, or random ones."""

import copy
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save

_ODD_TEXTS = ["", " ", "\n", "{}", "{} {}", "[", "[1", '["a"]', "\x00", "\ud800", "\u202e", "\x1b[31m", "a" * 5000,
              "../x", "/etc/passwd", "1e999", "nan", "base", "head", "2026-01-01T00:00:00", "0" * 64,
              "9" * 19]  # fmt: skip
_ODD_NUMBERS = [
    0,
    -1,
    1,
    2,
    10,
    2**31,
    2**63,
    -(2**63) - 1,
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
]
# More digits than Python converts, deeper nesting than its parser supports, and characters that end a text early.
_ODD_BYTES = [b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"}", b",", b"\r",
              b"NaN", b"-Infinity", b"\\ud800", b"\x1b]0;x\x07", b"PK\x03\x04", b"'", b"=", b"\n[x]\n"]  # fmt: skip

texts = st.one_of(st.sampled_from(_ODD_TEXTS), st.text(st.characters(), max_size=8))
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(_ODD_NUMBERS), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    found = [(value, key) for key, _ in pairs]
    for _, child in pairs:
        if isinstance(child, dict | list):
            found += _places(child)
    return found


@st.composite
def changed(draw: st.DrawFn, sound: Any) -> Any:
    """A valid JSON object or list with up to three places replaced, removed, renamed, swapped or wrapped."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(0, 3))):
        places = _places(value)
        if not places:
            break
        container, key = draw(st.sampled_from(range(len(places))).map(lambda at, p=places: p[at]))
        how = draw(st.sampled_from(["replace", "remove", "rename", "swap", "wrap", "repeat"]))
        if how == "replace":
            container[key] = draw(values)
        elif how == "wrap":
            container[key] = [container[key]]
        elif how == "remove":
            del container[key]
        elif how == "swap":
            other, name = draw(st.sampled_from(range(len(places))).map(lambda at, p=places: p[at]))
            container[key] = copy.deepcopy(other[name])
        elif isinstance(container, dict):
            container[draw(texts)] = container.pop(key) if how == "rename" else container[key]
        else:
            container.append(copy.deepcopy(container[key]))
    return value


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes unchanged (half of the time), or cut, overwritten, doubled, or with odd bytes inserted."""
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([1, 4, 40]))
        how = draw(st.sampled_from(["cut", "insert", "overwrite", "remove", "double", "flip"]))
        if how == "cut":
            data = data[:at]
        elif how == "insert":
            data = data[:at] + draw(st.sampled_from(_ODD_BYTES)) + data[at:]
        elif how == "overwrite":
            new = draw(st.one_of(st.sampled_from(_ODD_BYTES), st.binary(min_size=1, max_size=8)))
            data = data[:at] + new + data[at + len(new) :]
        elif how == "remove":
            data = data[:at] + data[at + length :]
        elif how == "double":
            data = data[: at + length] + data[at:]
        elif at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    return data


def json_files(sound: Any) -> st.SearchStrategy[bytes]:
    """A JSON file: the valid value changed, or a random value; then its bytes are damaged."""
    value = st.one_of(changed(sound), changed(sound), changed(sound), values)
    return value.map(lambda one: json.dumps(one).encode()).flatmap(damaged)


_DTYPES = ["<f8", "<f4", "<f2", ">f8", "<i8", "<u8", "?", "<c16", "<U4", "S3", "O", "V8", "<M8[s]"]
_SHAPES = [(), (0,), (1,), (2,), (2, 2), (3, 3), (3, 4), (1, 3, 3), (0, 3)]


@st.composite
def _array(draw: st.DrawFn, sound: np.ndarray) -> np.ndarray:
    how = draw(st.sampled_from(["dtype", "shape", "cell", "cell", "negative", "huge"]))
    if how == "shape":
        return np.zeros(draw(st.sampled_from(_SHAPES)), sound.dtype)
    if how == "dtype":
        dtype = np.dtype(draw(st.sampled_from(_DTYPES)))
        return (
            np.zeros(sound.shape, dtype) if draw(st.booleans()) or dtype.kind == "V" else _cast(sound, dtype)
        )
    array = np.array(sound)
    if array.dtype.kind in "fiu" and array.size:
        numbers = _ODD_NUMBERS if array.dtype.kind == "f" else [0, -1, 2, 100, 2**62]
        if how == "cell":
            cell = draw(st.integers(0, array.size - 1))
            array.flat[cell] = _cast(np.array(draw(st.sampled_from(numbers)), object), array.dtype)
        else:
            array = -array if how == "negative" else _cast(array.astype(object) * 10**30, array.dtype)
    return array


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    array = np.asarray(array)  # arithmetic on a single number returns no array
    with np.errstate(all="ignore"):
        try:
            return (array.real if array.dtype.kind == "c" else array).astype(dtype)
        except (ValueError, TypeError, OverflowError, AttributeError):
            return np.zeros(array.shape, dtype)


@st.composite
def arrays(draw: st.DrawFn, sound: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Named arrays. Up to two of them are removed, renamed, exchanged, or have other numbers, shapes or types."""
    found = dict(sound)
    for _ in range(draw(st.integers(0, 2))):
        if not found:
            break
        name = draw(st.sampled_from(sorted(found)))
        how = draw(st.sampled_from(["remove", "rename", "other", "array", "array", "array"]))
        if how == "array":
            found[name] = draw(_array(found[name]))
        elif how == "other":
            found[name] = found[draw(st.sampled_from(sorted(found)))]
        else:
            array = found.pop(name)
            if how == "rename":
                found[draw(st.sampled_from(["", "x", "a/b", "../x", "scores", "file", "total"]))] = array
    return found


@st.composite
def npz_files(draw: st.DrawFn, sound: Mapping[str, np.ndarray]) -> bytes:
    """A .npz with changed arrays, compressed or not, with other members, or a single .npy; then damaged bytes."""
    found = draw(arrays(sound))
    buffer = io.BytesIO()
    if draw(st.sampled_from([False] * 15 + [True])):
        np.save(buffer, next(iter(found.values()), np.zeros(1)))
    else:
        compression = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, array in found.items():
                member = io.BytesIO()
                np.save(member, array)
                data = (
                    draw(damaged(member.getvalue())) if draw(st.sampled_from([False] * 5 + [True])) else None
                )
                suffix = draw(st.sampled_from([".npy"] * 9 + [""]))
                archive.writestr(zipfile.ZipInfo(name + suffix), data or member.getvalue(), compression)
    return draw(damaged(buffer.getvalue()))


@st.composite
def safetensors_files(
    draw: st.DrawFn, sound: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A .safetensors with changed arrays of the types it supports; then its header and its bytes are damaged."""
    found = {name: array for name, array in draw(arrays(sound)).items() if array.dtype.str in _TENSOR_TYPES}
    data = save(
        {name: np.ascontiguousarray(array) for name, array in found.items()},
        dict(metadata) if metadata else None,
    )
    if draw(st.booleans()):
        length = int.from_bytes(data[:8], "little")
        # The order of the header varies between runs, but a strategy must be deterministic.
        sorted_header = json.loads(json.dumps(json.loads(data[8 : 8 + length].decode()), sort_keys=True))
        header = json.dumps(draw(changed(sorted_header))).encode()
        data = len(header).to_bytes(8, "little") + header + data[8 + length :]
    return draw(damaged(data))


_TENSOR_TYPES = {"<f8", "<f4", "<f2", "<i8", "<u8", "|b1"}
