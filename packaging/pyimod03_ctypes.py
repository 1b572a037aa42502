"""Stands in the executable for PyInstaller's module of this name, which imports ctypes."""


def install() -> None:
    """Do nothing: see monolite.spec."""
