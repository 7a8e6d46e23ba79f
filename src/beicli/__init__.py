"""Compile embedding models into versioned engines and serve them."""

__version__ = "0.1.0.dev0"
