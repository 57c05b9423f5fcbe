"""The error that all parts of retcon raise for a mistake of the user."""


class InputError(Exception):
    """The input is wrong: a value, a name, a file or a setting. The message is one sentence: the fault and its remedy.

    The command line exits with 2.
    """
