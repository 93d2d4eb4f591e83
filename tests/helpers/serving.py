"""A server of an index that runs for the length of a block."""

import threading
from contextlib import contextmanager

from stgt.search.server import Server


@contextmanager
def served(index):
    server = Server(index)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
