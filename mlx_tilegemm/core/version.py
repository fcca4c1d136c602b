"""The installed version, in a module of its own: reading metadata takes longer than the import."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version of the package that is installed, ``unknown`` where none is."""
    try:
        return version("mlx_tilegemm")
    except PackageNotFoundError:
        return "unknown"
