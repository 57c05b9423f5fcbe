"""Functions that tests run in separate processes: `python workers.py NAME ARGUMENT...`."""

import sys
from pathlib import Path

from sqlmodel import select

from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import FactSet, Job, Model, Revision
from retcon.store.history import history
from retcon.store.home import Home


def count_up(root: str, times: str) -> None:
    """Increment a number `times` times. The test detects lost updates."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)
    for _ in range(int(times)):
        with catalog.write() as session:
            job = session.exec(select(Job)).one()
            job.done += 1
            session.add(job)


def open_fresh(root: str) -> None:
    catalog = Catalog.open(Home(Path(root)))
    with catalog.write() as session:
        jobs.create(session, "trace", {}, "cpu")


def claim(root: str, job_id: str, owner: str) -> None:
    """Print whether this process claimed the job."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)
    sys.stdin.readline()  # all processes start at the same moment
    with catalog.write() as session:
        print(jobs.claim(session, int(job_id), owner, 1), flush=True)


def stream(root: str) -> None:
    """Commit rows in an endless loop. Print the number of each row after its commit."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)
    number = 0
    while True:
        with catalog.write() as session:
            session.add(FactSet(name=str(number), source="", format="plain"))
        print(number, flush=True)
        number += 1


def store_slowly(root: str) -> None:
    """Begin to store an artifact, print `begun`, and never finish it."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)

    def write_half(path: Path) -> None:
        path.write_bytes(b"half of it")
        print("begun", flush=True)
        sys.stdin.readline()

    catalog.artifacts.put_writer(write_half)


def edit_for_ever(root: str, name: str) -> None:
    """Commit edits in an endless loop, each with a new artifact. Print a line after each commit."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)
    number = 0
    while True:
        artifact = catalog.artifacts.put_bytes(f"{name} {number}".encode() * 1000)
        with catalog.write() as session:
            session.merge(artifact)
            model = session.exec(select(Model)).one()
            edit = Revision(
                model_id=model.id or 0, parent=model.head, kind="edit", fingerprint="f", delta=artifact.sha256
            )
            history.commit_revision(session, model, edit, "edit")
        print(number, flush=True)
        number += 1


def store_and_wait(root: str) -> None:
    """Store an artifact, begin another one, and print the digest of the first. Commit no row."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)
    digest = catalog.artifacts.put_bytes(b"its row comes later").sha256

    def write_half(path: Path) -> None:
        path.write_bytes(b"half of it")
        print(digest, flush=True)
        sys.stdin.readline()

    catalog.artifacts.put_writer(write_half)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
