"""Check a new model's name and source, and remove a model."""

import re
import shutil
from pathlib import Path

from sqlmodel import select

from ...engine.jobs.reap import reap
from ...engine.jobs.specs import ModelSpec
from ...store import jobs as job_rows
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Model
from ...store.errors import InputError
from ...store.history import history
from ...store.states import ALIVE_STATES
from ..paths import model_source


def build_model_spec(
    catalog: Catalog,
    source: str,
    name: str = "",
    commit: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> ModelSpec:
    """Check the source and the name, and build the job that adds the model.

    Raises:
        InputError: the source is empty, or the name is invalid or taken.
    """
    if not source:
        raise InputError("the source is empty: give a hub id (org/name), a folder, a .gguf file, or starter")
    name = name or Path(source.rstrip("/")).name.removesuffix(".gguf")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(
            f"{name!r} is not a valid model name (--name): use letters, digits, '.', '_' and '-'"
        )
    with catalog.read() as session:
        if session.exec(select(Model.id).where(Model.name == name)).first():
            raise InputError(f"a model named {name!r} exists already: choose another name (--name)")
    return ModelSpec(
        source=model_source(source), name=name, commit=commit, trust_remote_code=trust_remote_code
    )


def count_removable_edits(catalog: Catalog, name: str) -> int:
    """Check that a model can be removed; return how many edits would be removed with it.

    Raises:
        InputError: a job uses the model.
        NotFound: the model does not exist.
    """
    reap(catalog)
    with catalog.read() as session:
        edits = len(history.list_revisions(session, history.find_model(session, name))) - 1
        busy = job_rows.list_jobs(session, ALIVE_STATES)
    if any(job.spec.get("model") == name for job in busy):
        raise InputError(f"a job uses {name} now; cancel it first (retcon job list)")
    return edits


def remove_model(catalog: Catalog, name: str) -> None:
    """Remove a model with its traces, covariances, edits, evaluations and converted weights.

    Raises:
        InputError: a job uses the model.
        NotFound: the model does not exist.
    """
    count_removable_edits(catalog, name)
    with catalog.write(durable=True) as session:
        model = history.find_model(session, name)
        path, revisions = Path(model.path), [one.id for one in history.list_revisions(session, model)]
        session.delete(model)
    converted = catalog.home.models / name
    if path == converted:
        shutil.rmtree(converted, ignore_errors=True)
    for revision in revisions:
        for unsent in catalog.home.outbox.glob(f"{revision}-*"):
            shutil.rmtree(unsent, ignore_errors=True)
