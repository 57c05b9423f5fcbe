"""Optional dependencies: check that an extra is installed before work starts. Imports no torch."""

from importlib.util import find_spec

from .errors import InputError

DISTRIBUTION = "retcon"
# extra -> (its packages, the feature that needs it)
_EXTRAS = {
    "extract": (("openai", "llguidance", "sentencex"), "Extracting facts from prose"),
    "ray": (("ray",), "Running on Ray"),
    "serve": (("textual_serve",), "Serving the app in a browser"),
}


def require_extra(extra: str, feature: str = "") -> None:
    """Check that the packages of an extra are installed. `feature` overrides the start of the message.

    Raises:
        InputError: a package is missing. The message has the command that installs the extra.
    """
    packages, default = _EXTRAS[extra]
    if any(find_spec(name) is None for name in packages):
        raise InputError(
            f"{feature or default} needs the extra '{extra}': pip install '{DISTRIBUTION}[{extra}]'"
        )
