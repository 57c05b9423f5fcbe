"""Editing methods: requests, a model, second moments and settings in; one delta out. Adding one is a file and a line."""

from .method import Method, Request, Written
from .rome import RRome, Rome

METHODS: dict[str, Method] = {method.name: method for method in (Rome(), RRome())}

__all__ = ["METHODS", "Method", "Request", "Written"]
