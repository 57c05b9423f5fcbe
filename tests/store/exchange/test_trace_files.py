"""Trace files of rome with invalid fields are refused."""

from pathlib import Path

import numpy as np
import pytest

from retcon.store.errors import InputError
from retcon.store.exchange.trace import read_npz


def test_subject_range_of_fractions_is_refused(tmp_path: Path) -> None:
    arrays = {
        "scores": np.zeros((3, 2), np.float32), "low_score": np.array(0.1), "high_score": np.array(0.9),
        "input_tokens": np.array(["a", "b", "c"]), "subject_range": np.array([1.0, 2.0]), "answer": np.array("d"),
    }  # fmt: skip
    np.savez(tmp_path / "knowledge_0.npz", **arrays)
    with pytest.raises(InputError, match="not a valid trace"):
        read_npz(tmp_path, layers=2)
    np.savez(tmp_path / "knowledge_0.npz", **arrays | {"subject_range": np.array([1, 2])})
    assert read_npz(tmp_path, layers=2)[0].subject == "b"
