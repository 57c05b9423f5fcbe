"""Data classes of a passage: facts with paraphrases, and questions. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Triple:
    """A fact as subject, relation and object. `{subject} {relation} {object}` reads as a sentence.

    `sentence` is the sentence that the triple comes from.
    """

    subject: str
    relation: str
    object: str
    sentence: str = ""

    @property
    def prompt(self) -> str:
        """The relation as a template. A relation such as "'s mother is" follows the subject without a space."""
        space = "" if self.relation.startswith(("'", "’")) else " "
        return f"{{}}{space}{self.relation}"

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject in it."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class PassageFact:
    """A fact with its paraphrases.

    `prompt`, `train_paraphrases` and `eval_paraphrases` are templates with one `{}` for the subject. Each of them is
    continued by the object, which has no leading space. An edit is never trained on `eval_paraphrases`. `sentence` is
    the sentence that the fact comes from, or empty.
    """

    subject: str
    prompt: str
    object: str
    train_paraphrases: tuple[str, ...] = ()
    eval_paraphrases: tuple[str, ...] = ()
    sentence: str = ""

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject in it."""
        return self.fill(self.prompt)

    def fill(self, template: str) -> str:
        """A template with the subject in place of `{}`."""
        return template.replace("{}", self.subject)


@dataclass(frozen=True)
class PassageQuestion:
    """A question, and the parts of a complete answer. There is at least one part."""

    question: str
    answers: tuple[str, ...]
