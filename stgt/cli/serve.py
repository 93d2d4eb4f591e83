"""`stgt serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def serve(
    index: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INDEX")],
    *,
    host: str = "localhost",
    port: int = 8765,
    model: str | None = None,
    tokenizer: str | None = None,
    device: str = "auto",
) -> None:
    """Show a web page on this machine that searches an index as you type, and plays what it finds.

    Args:
        index: An index that `stgt index` has made, e.g. films.index.
        host: The name or address to listen at. Any other than localhost lets other machines see the videos.
        port: The port; 0 chooses a free one.
        model: Where the model of the index is now, if it has moved.
        tokenizer: The tokenizer's folder, or its name on the hub. It is needed for a model that is not a run, comes
            without a tokenizer and does not use BERT's.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    from stgt.search.index import Index
    from stgt.search.server import Server
    from stgt.terminal import say

    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}, expected a number from 0 to 65535")
    opened = Index(index, model, device=device, tokenizer=tokenizer)
    server = Server(opened, host, port)
    say(f"{len(opened)} moments of {len(opened.files)} videos at {server.url} (Ctrl-C ends it)")
    if host not in ("localhost", "127.0.0.1", "::1"):
        place = f"http://IP-ADDRESS-OF-THIS-MACHINE:{server.server_address[1]}/"
        say(f"every machine that reaches this one can search the index and fetch its videos, at {place}")
    try:
        server.serve_forever()
    finally:
        server.server_close()
