"""`stgt info`."""


def info() -> None:
    """Show versions, how the kernels were built, and which backends can run here."""
    from stgt.info import print_info

    print_info()
