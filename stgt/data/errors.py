"""The error of files that cannot be read."""


class VideoError(RuntimeError):
    """A video or image file that cannot be read; the message begins with the file's path and ends with the cause."""
