"""Editing methods: requests, a model, second moments and settings in; one delta out.

Adding one is a file here and a line below.
"""

from .alphaedit import AlphaEdit
from .emmet import Emmet
from .ft import FineTuning
from .joint import Joint
from .lora import Lora
from .memit import Memit
from .method import Method, PastEdit, Task, Written
from .request import Request
from .rome import Rome, RRome

METHODS: dict[str, Method] = {
    method.name: method
    for method in (Rome(), RRome(), Memit(), Emmet(), AlphaEdit(), Joint(), FineTuning(), Lora())
}

__all__ = ["METHODS", "Method", "PastEdit", "Request", "Task", "Written"]
