"""What the hub's refusals and failures mean, in a sentence, with a way on. No address with a signature, no token."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ....store.errors import CatalogError, InputError
from ...errors import Stopped

_SECRET = re.compile(r"hf_[A-Za-z0-9]+")
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
_REFUSED = {
    401: "the hub does not accept the token: it has expired or was revoked; log in again with `retcon hub login`",
    403: "the account or its token may not write to {repo}: use a token with the write role, or a repo of your own",
    404: "the hub knows no repo {repo}, or this token may not see it",
    409: "the hub refused {repo} because another write to it is going on; run it again in a moment",
    412: "somebody else committed to {repo} meanwhile; look at what is there, then publish again on top of it",
    413: "the hub finds a file for {repo} too large",
}


class HubFailed(CatalogError):
    """The hub failed although what was asked of it was right. What it has received by then, it keeps."""


def redacted(text: str) -> str:
    """Text without tokens and without the signatures of upload addresses."""
    return _QUERY.sub(r"\1?…", _SECRET.sub("hf_…", text))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: the client wraps what fails inside its threads."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error came from."""
    for one in causes(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_network(error: BaseException) -> bool:
    """Whether the line was cut or never there."""
    import httpx2

    return any(
        isinstance(one, httpx2.TransportError | ConnectionError | TimeoutError) for one in causes(error)
    )


@contextmanager
def plain_hub_errors(repo: str) -> Iterator[None]:
    """Turn whatever the client raises into a sentence.

    InputError where the person must act, HubFailed where waiting helps. The original is not chained: its text and its
    requests hold addresses that are as good as passwords.
    """
    try:
        yield
    except (InputError, CatalogError, Stopped):
        raise
    except Exception as error:
        made = _plain(error, repo)
    else:
        return
    raise made from None


def _plain(error: Exception, repo: str) -> Exception:
    if any(isinstance(one, Stopped) for one in causes(error)):
        return Stopped()
    status = status_of(error)
    if status in _REFUSED:
        return InputError(_REFUSED[status].format(repo=repo))
    if status == 429:
        response = next(one.response for one in causes(error) if getattr(one, "response", None) is not None)  # type: ignore[attr-defined]
        wait = response.headers.get("Retry-After")
        when = f"in {wait} seconds" if wait and wait.isdigit() else "in some minutes"
        return HubFailed(
            f"the hub asks for fewer requests (429): resume this job {when}; what it has, it keeps"
        )
    if status is not None and status >= 500:
        return HubFailed(
            f"the hub failed (status {status}) and nothing was published: resume this job later; what it has, it keeps"
        )
    if is_network(error):
        from huggingface_hub import constants

        return HubFailed(
            f"the hub at {constants.ENDPOINT} cannot be reached: resume this job when the line is back; what was sent "
            "is not sent again"
        )
    first = (str(error).strip().splitlines() or [""])[0]
    return HubFailed(f"publishing to {repo} failed: {type(error).__name__}: {redacted(first)}")
