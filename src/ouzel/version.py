"""The version, in a file of its own: a room that imported `ouzel` for it would reach the façade."""

__version__ = "0.1.0"
