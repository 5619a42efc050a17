"""Every kernel's definition in plain NumPy: short, obvious, and what the fast ones must equal."""

from .._table import lazy_module

__getattr__, __dir__ = lazy_module(__name__)
