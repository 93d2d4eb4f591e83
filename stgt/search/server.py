"""A local web page that answers from an index.

Nothing but the page, pictures of moments and the files of the index can be fetched. Requests must name this machine in
their Host header, so that no other web site can read answers through a name that it points here (DNS rebinding).
"""

from __future__ import annotations

import errno
import functools
import http.server
import ipaddress
import json
import logging
import math
import mimetypes
import os
import queue
import socket
import tempfile
import threading
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, parse_qs, urlsplit

import torch

from stgt.data.isolated import Failure, Worker
from stgt.data.windows import WindowPixels, read_whole
from stgt.integrity import DamagedError
from stgt.search import manifest
from stgt.search.byte_range import UnsatisfiableError, parse_range
from stgt.search.index import Index, Moment
from stgt.search.manifest import Film
from stgt.search.pictures import sheet

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
LARGEST = 2**28
"""Bytes of the largest clip that can be searched by"""
MOST = 768
"""Most answers to a request"""
PAINTERS = 2
"""Processes that make pictures"""
TIMEOUT = 30.0
"""Seconds that a picture, or reading a clip, may take"""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RefusedError(Exception):
    """A request that is refused with this status and message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(http.server.ThreadingHTTPServer):
    """Serves the page at `url` from `serve_forever` to `shutdown`; `server_close` ends its processes."""

    daemon_threads = True

    def __init__(self, index: Index, host: str = "localhost", port: int = 0) -> None:
        """port: 0 chooses a free one. Raises OSError, which names host and port, if they cannot be used."""
        self.host, self._index, self._version = host, index, self._manifest_version(index)
        self.model, self._reading = threading.Lock(), threading.Lock()
        self._painters = queue.SimpleQueue[Worker]()
        for _ in range(PAINTERS):
            self._painters.put(Worker(sheet, TIMEOUT))
        self._reader = Worker(partial(read_whole, pixels=index.encoder.pixels), TIMEOUT)
        self._texts = functools.lru_cache(1000)(lambda text: index.encoder.encode_texts([text])[0][None])
        self.picture = functools.lru_cache(2000)(self._paint)
        try:
            self.address_family = socket.getaddrinfo(host, port)[0][0]
            super().__init__((host, port), Handler)  # it calls `server_close` if the port cannot be used
        except OSError as error:
            hint = "; expected another port, or 0 for a free one" if error.errno == errno.EADDRINUSE else ""
            raise OSError(f"cannot listen at host {host!r} and port {port} ({error.strerror}){hint}") from None

    @property
    def url(self) -> str:
        """The address of the page on this machine."""
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.server_address[1]}/"

    def server_close(self) -> None:
        super().server_close()
        self._reader.stop()
        for _ in range(PAINTERS):
            self._painters.get().stop()

    def index(self) -> Index:
        """The index as it is now: it is opened again after an update.

        A request is refused if the index is gone or damaged, or if another model has made it anew.
        """
        with self.model:
            try:
                if (version := self._manifest_version(self._index)) != self._version:
                    index = Index(self._index.path, self._index.encoder)
                    _ = index.encoder  # this raises ValueError if another model has made the index anew
                    self._index, self._version = index, version
            except (OSError, ValueError) as error:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, f"the index cannot be used: {error}") from None
            return self._index

    def film(self, key: str) -> Film:
        """A file of the index by its key."""
        if (film := self.index().manifest.by_key.get(key)) is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "the index has no such file")
        return film

    def by_text(self, text: str, top: int) -> list[Moment]:
        index = self.index()
        with self.model:
            query = self._texts(text)
        return index.nearest(query, top=top)

    def by_file(self, path: Path, top: int) -> list[Moment]:
        index = self.index()
        with self._reading:
            result = _unless_failed(self._reader.call(str(path)))
        with self.model:
            query = index.encoder.encode_windows(WindowPixels(*map(torch.from_numpy, result)))[0]
        return index.nearest(query, top=top)

    def _paint(self, film: Film, start: float, end: float) -> bytes:
        painter = self._painters.get()
        try:
            result = painter.call((film.path, start, end))
        finally:
            self._painters.put(painter)
        return _unless_failed(result)

    @staticmethod
    def _manifest_version(index: Index) -> int:
        return (index.path / manifest.FILE).stat().st_mtime_ns


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request after the other of one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:  # noqa: N802 (the name that http.server looks for)
        self._answer(self._get)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(self._get)

    def do_POST(self) -> None:  # noqa: N802
        self._answer(self._post)

    def _answer(self, respond) -> None:
        try:
            try:
                self._require_own_page()
                respond()
            except RefusedError as error:
                self._refuse(error.status, error)
            except DamagedError as error:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, error)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):  # the browser needs no more of a video
            self.close_connection = True

    def _refuse(self, status: HTTPStatus, error: Exception) -> None:
        self.close_connection = True  # the rest of a body may still be in the pipe
        self._send(status, "text/plain; charset=utf-8", str(error).encode("utf-8", "backslashreplace"))

    def _require_own_page(self) -> None:
        host = _split(f"//{self.headers.get('Host', '')}")
        if not _is_this_machine(host.hostname or "", self.server.host):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                f"this page does not open under the name {host.hostname!r} (in the Host header); put the machine's IP "
                "address in its place, or localhost on the machine itself",
            )
        origin = self.headers.get("Origin")
        if origin is not None and _split(origin).netloc != self.headers["Host"]:
            raise RefusedError(HTTPStatus.FORBIDDEN, "the request comes from another web site")

    def _get(self) -> None:
        path, words = self._asked()
        if path in FILES:
            name = FILES[path]
            self._send(HTTPStatus.OK, f"{mimetypes.guess_type(name)[0]}; charset=utf-8", (PAGE / name).read_bytes())
        elif path == "/about":
            index = self.server.index()
            self._send_json({"windows": len(index), "files": len(index.files), "model": index.manifest.settings.model})
        elif path == "/search":
            text = words.get("q", "").strip()[:1000]
            self._send_moments(self.server.by_text(text, _top(words)) if text else [])
        elif path == "/like":
            film, start, end = self._part(words)
            try:
                found = self.server.index().like(Moment(Path(film.path), start, end, 0.0), top=_top(words))
            except ValueError as error:
                raise RefusedError(HTTPStatus.NOT_FOUND, str(error)) from None
            self._send_moments(found)
        elif path == "/sheet":
            film, start, end = self._part(words)
            self._send(HTTPStatus.OK, "image/jpeg", self.server.picture(film, start, end), keep=True)
        elif path.startswith("/video/"):
            self._send_file(Path(self.server.film(path.removeprefix("/video/")).path))
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self) -> None:
        address, words = self._asked()
        length = self.headers.get("Content-Length", "")
        if address != "/search":
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        if not length.isdecimal():
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "the request does not tell how long the file is")
        if len(length.lstrip("0")) > len(str(LARGEST)) or int(length) > LARGEST:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file is larger than {LARGEST // 10**6} MB")
        try:
            found = self._found_by_body(int(length), _top(words))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise RefusedError(
                HTTPStatus.INSUFFICIENT_STORAGE, "the disk of the server has no room for the file"
            ) from None
        self._send_moments(found)

    def _found_by_body(self, length: int, top: int) -> list[Moment]:
        """The moments that are like the file of `length` bytes that the request carries."""
        with tempfile.TemporaryDirectory(prefix="stgt-") as folder:
            path = Path(folder) / "clip"
            with open(path, "wb") as file:
                left = length
                while left and (part := self.rfile.read(min(left, 2**20))):
                    file.write(part)
                    left -= len(part)
            if left:
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"the file came without its last {left} bytes")
            return self.server.by_file(path, top)

    def _asked(self) -> tuple[str, dict[str, str]]:
        """The path of the request's address, and the words of its query."""
        url = _split(self.path)
        return url.path, {name: values[-1] for name, values in parse_qs(url.query).items()}

    def _part(self, words: dict[str, str]) -> tuple[Film, float, float]:
        """The file and the times that a request names."""
        try:
            start, end = float(words.get("start", "")), float(words.get("end", ""))
        except ValueError:
            start = end = math.nan
        if not (0 <= start <= end < math.inf):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "start and end are not two times in seconds")
        return self.server.film(words.get("film", "")), start, end

    def _send_moments(self, moments: list[Moment]) -> None:
        films = self.server.index().manifest.by_path
        answers = [
            {
                "film": films[str(moment.path)].key,
                "name": moment.path.name,
                "path": str(moment.path),
                "start": moment.start,
                "end": moment.end,
                "score": round(moment.score, 4),
            }
            for moment in moments
            if str(moment.path) in films
        ]
        self._send_json({"answers": answers})

    def _send_json(self, value: object) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, *, keep: bool = False) -> None:
        self._send_head(status, kind, len(body), {"Cache-Control": "private, max-age=3600" if keep else "no-store"})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: HTTPStatus, kind: str, length: int, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: Path) -> None:
        """Send a file of the index, or the part of it that a browser asks for when it seeks."""
        kind = mimetypes.guess_type(path.name)[0] or ""
        kind = kind if kind.startswith(("video/", "image/")) and "svg" not in kind else "application/octet-stream"
        try:
            file = open(path, "rb")  # noqa: SIM115 (it is closed below)
        except OSError as error:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"the file cannot be opened any more: {error.strerror}") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            more = {"Accept-Ranges": "bytes", "Cache-Control": "no-store"}
            try:
                # No answer names a version of its file, so `If-Range`, which asks for the rest of one, asks for all.
                part = parse_range(None if "If-Range" in self.headers else self.headers.get("Range"), size)
            except UnsatisfiableError:
                self._send_head(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, kind, 0, more | {"Content-Range": f"bytes */{size}"}
                )
                return
            status, chosen = HTTPStatus.OK, range(size)
            if part is not None:
                status, chosen = HTTPStatus.PARTIAL_CONTENT, part
                more["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
            self._send_head(status, kind, len(chosen), more)
            if self.command == "HEAD":
                return
            file.seek(chosen.start)
            left = len(chosen)
            while left and (block := file.read(min(left, 2**18))):
                self.wfile.write(block)
                left -= len(block)
            if left:  # the file has become shorter
                self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name that http.server uses)
        """Requests are not logged, because they tell what somebody searches for."""


def _unless_failed(result: Result | Failure) -> Result:
    """The result of a process that reads a file. Refuses the request if it cannot read the file."""
    if isinstance(result, Failure):
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the file cannot be read: {result.cause}")
    return result


def _split(address: str) -> SplitResult:
    """The parts of an address. Refuses one that is none."""
    try:
        return urlsplit(address)
    except ValueError:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the request holds an address that cannot be read") from None


def _is_this_machine(name: str, host: str) -> bool:
    """Whether a Host header can only come from a page of this server. A web site has a name, and never an address."""
    if name.lower() in ("localhost", host.lower(), socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _top(words: dict[str, str]) -> int:
    wanted = words.get("top", "24")
    return max(1, min(MOST, int(wanted))) if wanted.isdecimal() and len(wanted) < 9 else 24
