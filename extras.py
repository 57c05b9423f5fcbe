"""Optional dependencies: check that an extra is installed before work starts."""

import importlib.util

from .errors import InputError

# The distribution's name in pyproject.toml, which may differ from the name of the import package.
DISTRIBUTION = "retcon-lm"
# extra -> (its import packages, the feature that needs them)
EXTRAS = {
    "extract": (("openai", "llguidance", "sentencex"), "Extracting facts from prose"),
    "ray": (("ray",), "Running on Ray"),
    "serve": (("textual_serve",), "Serving the app in a browser"),
}


def require_extra(extra: str, feature: str | None = None) -> None:
    """Check that all packages of an extra are installed. `feature` replaces the subject of the message.

    Raises:
        InputError: a package is missing. The message has the command that installs the extra.
    """
    packages, default = EXTRAS[extra]
    if any(importlib.util.find_spec(name) is None for name in packages):
        raise InputError(
            f"{feature or default} needs the extra '{extra}': pip install '{DISTRIBUTION}[{extra}]'"
        )
