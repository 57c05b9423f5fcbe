"""What a passage is made of for the science: facts with their wordings, and questions. Plain data, no torch.

They have the fields of the catalog's own data classes for the file format, which the science may not import.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Triple:
    """A fact as a sentence was split: `{subject} {relation} {object}` reads as one. `sentence` is where it is from."""

    subject: str
    relation: str
    object: str
    sentence: str = ""

    @property
    def prompt(self) -> str:
        """The relation as a template; one like "'s mother is" follows the subject without a space."""
        space = "" if self.relation.startswith(("'", "’")) else " "
        return f"{{}}{space}{self.relation}"

    @property
    def text(self) -> str:
        """The prompt about the subject."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Fact:
    """A fact with the ways to say it.

    `prompt`, `wordings` (to be trained on) and `held_out` (only ever asked) are templates with one `{}` where the
    subject stands; the object, without a space before it, continues each. `sentence` is where it is from, if known.
    """

    subject: str
    prompt: str
    object: str
    train_paraphrases: tuple[str, ...] = ()
    eval_paraphrases: tuple[str, ...] = ()
    sentence: str = ""

    @property
    def text(self) -> str:
        """The prompt about the subject."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Question:
    """A question, and the parts that a full answer holds."""

    question: str
    answers: tuple[str, ...]


def alike(text: str) -> str:
    """What two wordings that differ in spacing and upper case only have in common."""
    return " ".join(text.casefold().split())
