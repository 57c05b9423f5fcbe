"""Editing methods: requests, a model, second moments and settings in; one delta out.

Adding one is a file here and a line below.
"""

from .alphaedit import AlphaEdit
from .emmet import Emmet
from .memit import Memit
from .method import Method, Request, Written
from .rome import Rome, RRome

METHODS: dict[str, Method] = {
    method.name: method for method in (Rome(), RRome(), Memit(), Emmet(), AlphaEdit())
}

__all__ = ["METHODS", "Method", "Request", "Written"]
