"""An HTTP server of a folder that answers requests for a range of bytes, as stores of objects do."""

import threading
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stgt.search.byte_range import parse_range


@contextmanager
def serving_ranges(folder, *, refuse=False, status=None, failing=""):
    """Yields the server's address, and a list to which it adds the range of each answer.

    refuse: whether it always sends whole files, as Python's own server does. status: the status of all answers about
    paths that end in `failing`; these answers are then errors.
    """
    answered = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):  # noqa: N802 (the name is Python's)
            if status is not None and self.path.endswith(failing):
                return self.send_error(status)
            path = Path(self.translate_path(self.path))
            asked = None if refuse or not path.is_file() else parse_range(self.headers["Range"], path.stat().st_size)
            if asked is None:
                return super().do_GET()
            answered.append((path.name, asked))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {asked.start}-{asked.stop - 1}/{path.stat().st_size}")
            self.send_header("Content-Length", str(len(asked)))
            self.end_headers()
            self.wfile.write(path.read_bytes()[asked.start : asked.stop])

        def end_headers(self):
            if not refuse:
                self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

        def copyfile(self, source, outputfile):
            with suppress(ConnectionError):  # the client closes when it sees that the whole file comes
                super().copyfile(source, outputfile)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answered
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
