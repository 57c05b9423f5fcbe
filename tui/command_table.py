"""The commands of `retcon`: where each is defined, its help, and which of its verbs only read.

The command line, the app's `:` line and the tests read this table. It imports neither click nor Textual.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Access(NamedTuple):
    """Whether a verb only reads; with one of `writing_options` it writes."""

    reads_only: bool
    writing_options: tuple[str, ...] = ()


READS = Access(True)
WRITES = Access(False)
READS_UNLESS_SAVED = Access(True, ("--save",))


class CommandEntry(NamedTuple):
    """One command: a module of `tui/cli/commands`, the click command in it, one line of help, its verbs.

    `verbs` is one Access for a command without verbs, else one for each verb.
    """

    module: str
    attribute: str
    help: str
    verbs: Access | Mapping[str, Access]


def _verbs(reads: str = "", writes: str = "") -> dict[str, Access]:
    return dict.fromkeys(reads.split(), READS) | dict.fromkeys(writes.split(), WRITES)


COMMANDS: dict[str, CommandEntry] = {
    "ui": CommandEntry("ui", "ui", "Open the app at a place, read-only, or in a browser.", WRITES),
    "demo": CommandEntry("demo", "demo", "Trace, edit, evaluate and roll back a fact of the starter model.", WRITES),
    "doctor": CommandEntry("doctor", "doctor", "Print a report on this machine and catalog, without secrets.", READS),
    "model": CommandEntry("model", "model", "Add, list, show and remove models.", _verbs("list show", "add remove")),
    "facts": CommandEntry("facts", "facts", "Import, list and show sets of facts.", _verbs("list show", "import")),
    "trace": CommandEntry(
        "trace", "trace", "Find where a model stores a fact.",
        _verbs("list show", "run extend plot export import") | {"locate": READS_UNLESS_SAVED},
    ),
    "covariance": CommandEntry(
        "covariance", "covariance", "Collect the second moments of keys that edits need.",
        _verbs("list show", "run extend plot export import"),
    ),
    "edit": CommandEntry("edit", "edit", "Edit facts. Each edit adds a revision.", _verbs("", "run sweep import")),
    "sweep": CommandEntry(
        "sweep", "sweep", "Try an edit at each layer, score it, and discard it.",
        _verbs("list show", "run plot save"),
    ),
    "passage": CommandEntry(
        "passage", "passage", "Write the facts of a text into a model and evaluate them.",
        _verbs("list show", "run review report"),
    ),
    "eval": CommandEntry(
        "evaluation", "evaluation", "Evaluate a revision; the protocol is saved with the numbers.",
        _verbs("list show compare metrics", "run"),
    ),
    "ask": CommandEntry("ask", "ask", "Print next tokens and a completion, for one or more revisions.", WRITES),
    "history": CommandEntry("history", "history", "List the revisions of a model.", READS),
    "diff": CommandEntry("history", "diff", "Compare the edits of two revisions.", READS),
    "rollback": CommandEntry("history", "rollback", "Move the head to a revision and verify the weights.", WRITES),
    "undo": CommandEntry("history", "undo", "Undo the last move of the head.", WRITES),
    "redo": CommandEntry("history", "redo", "Redo the last move that was undone.", WRITES),
    "revert": CommandEntry("history", "revert", "Remove one edit and keep the later ones.", WRITES),
    "export": CommandEntry("export", "export", "Write a revision as a checkpoint, a LoRA adapter, or deltas.", WRITES),
    "publish": CommandEntry("publish", "publish", "Publish a revision to the Hugging Face Hub with its card.", WRITES),
    "unpublish": CommandEntry("publish", "unpublish", "Delete a repo or a tag from the hub.", WRITES),
    "hub": CommandEntry("hub", "hub", "Log in to the hub and list publications.", _verbs("list", "login logout")),
    "job": CommandEntry(
        "job", "job", "List, follow, cancel and resume jobs.",
        _verbs("list show watch log", "cancel pause priority move resume remove"),
    ),
    "catalog": CommandEntry(
        "catalog", "catalog", "Check, back up, restore and clean the catalog; export and import histories.",
        _verbs("", "check backup restore gc export import"),
    ),
}  # fmt: skip
_HELP = ("--help", "-h")


def reads_only(words: Sequence[str]) -> bool:
    """Whether a command line, without `retcon`, changes nothing. An unknown command counts as one that writes."""
    if list(words) in (["--version"], ["--help"], ["-h"], ["help"]):
        return True
    entry = COMMANDS.get(words[0]) if words else None
    if entry is None:
        return False
    path = 1
    access: Access | None
    if isinstance(entry.verbs, Access):
        access = entry.verbs
    else:
        if len(words) > 1 and words[1] in _HELP:
            return True
        access, path = entry.verbs.get(words[1]) if len(words) > 1 else None, 2
    # Help counts only directly after the verb: elsewhere it can be the value of an option.
    if access is None or (len(words) > path and words[path] in _HELP):
        return access is not None
    return access.reads_only and not any(
        word.partition("=")[0] in access.writing_options for word in words[path:]
    )
