"""Modelyard: one process in front of every language model you run yourself.

Importing this package imports no engine and no server; it costs a few milliseconds.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
