"""A fact to write."""

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class Request:
    """A fact to write: `prompt` is a template with one `{}` where the subject stands."""

    subject: str
    prompt: str
    target_new: str

    def __post_init__(self) -> None:
        if self.prompt.count("{}") != 1:
            raise InputError(
                f"the prompt {self.prompt!r} must hold exactly one {{}}, where the subject stands"
            )
        if not self.subject.strip() or not self.target_new.strip():
            raise InputError(f"the subject and the target of {self.prompt!r} must not be empty")

    @property
    def text(self) -> str:
        return self.prompt.replace("{}", self.subject)
