"""retcon: find, rewrite, prove, roll back and publish the facts of a language model."""

__version__ = "0.1.0"
