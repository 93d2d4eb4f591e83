"""The page answers from its index, gives out only what belongs to it, and only to itself."""

import errno
import http.client
import io
import json
import os
import shutil
import socket
import struct
import threading

import pytest
from helpers.colours import Colours, film
from helpers.serving import served
from PIL import Image

import stgt
from stgt.data.isolated import Failure
from stgt.search import server as servers
from stgt.search.byte_range import UnsatisfiableError, parse_range
from stgt.search.manifest import Manifest
from stgt.search.server import Server


@pytest.fixture(scope="module")
def server(made):
    with served(stgt.Index(made, Colours())) as server:
        yield server


def fetch(server, path, method="GET", body=None, **headers):
    """The status, headers and body of an answer."""
    port = server.server_address[1]
    connection = http.client.HTTPConnection("localhost", port, timeout=60)
    headers = {"Host": f"localhost:{port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


def moments(server, path, **rest):
    status, _, body = fetch(server, path, **rest)
    assert status == 200, body
    return json.loads(body)["answers"]


def test_the_page_runs_no_script_but_its_own(server):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, headers, body = fetch(server, path)
        assert status == 200 and headers["Content-Type"] == f"{kind}; charset=utf-8" and body
        assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert fetch(server, "/", method="HEAD")[2] == b""


def test_a_sentence_is_answered_with_moments(server, films):
    found = moments(server, "/search?q=yellow&top=2")
    assert {answer["path"] for answer in found} == {str(films / "more/b.mp4"), str(films / "more/c.mkv")}
    assert found[0].keys() == {"film", "name", "path", "start", "end", "score"}
    assert moments(server, "/search?q=%20") == []
    assert len(moments(server, "/search?q=red&top=x")) > 2
    assert json.loads(fetch(server, "/about")[2]) == {"windows": 12, "files": 3, "model": "colours"}


def test_a_picture_a_clip_and_a_moment_find_similar_ones(server, films):
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), (30, 30, 220)).save(picture, "PNG")
    found = moments(server, "/search?top=3", method="POST", body=picture.getvalue())
    assert all(answer["score"] > 0.99 for answer in found) and len(found) == 3
    clip = (films / "more" / "b.mp4").read_bytes()
    found = moments(server, "/search?top=2", method="POST", body=clip)
    assert {answer["name"] for answer in found} == {"b.mp4", "c.mkv"}  # the two that are yellow
    [first] = (answer for answer in moments(server, "/search?q=yellow&top=2") if answer["name"] == "b.mp4")
    words = f"film={first['film']}&start={first['start']}&end={first['end']}"
    assert moments(server, f"/like?top=1&{words}")[0]["name"] == "c.mkv"
    assert fetch(server, f"/like?film={first['film']}&start=0.3&end=0.4")[0] == 404


def test_the_frames_of_a_moment_are_one_picture(server):
    green = moments(server, "/search?q=green&top=1")[0]
    status, headers, body = fetch(server, f"/sheet?film={green['film']}&start=6&end=10")
    picture = Image.open(io.BytesIO(body))
    assert status == 200 and headers["Content-Type"] == "image/jpeg" and picture.size == (4 * 384, 216)
    for place in range(4):
        red, green_, blue = picture.getpixel((place * 384 + 192, 108))
        assert green_ > 150 and red < 90 and blue < 90
        assert max(picture.getpixel((place * 384 + 5, 108))) < 30  # the film is square, and has black borders
    for words in ("start=2&end=1", "start=a&end=1", "start=-1&end=1", "start=nan&end=nan", "start=0&end=inf", ""):
        assert fetch(server, f"/sheet?film={green['film']}&{words}")[0] == 400


def test_no_request_looks_through_all_files(server, monkeypatch):
    # A search makes 25 requests, and an index may have hundreds of thousands of files.
    found = moments(server, "/search?q=green&top=1")[0]  # the first request may

    def fail(manifest):
        raise AssertionError("a request looks through all files of the index")

    for name in ("films", "segments"):
        monkeypatch.setattr(Manifest, name, property(fail), raising=False)
    words = f"film={found['film']}&start={found['start']}&end={found['end']}"
    for path in ("/search?q=yellow", f"/like?{words}", f"/sheet?{words}", f"/video/{found['film']}"):
        assert fetch(server, path)[0] == 200


@pytest.mark.parametrize("path", ["/gone", "/page/index.html", "/index.json", "/video/", "/video/none", "/sheet/"])
def test_other_addresses_do_not_exist(path, server):
    assert fetch(server, path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/video/../../../../etc/passwd",
        "/video//etc/passwd",
        "/video/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/page.js/../../server.py",
        "http://localhost/etc/passwd",
        "/video/{films}/broken.mp4",
        "/sheet?film=../../etc/passwd&start=0&end=1",
        "/like?film=/etc/passwd&start=0&end=1",
    ],
)
def test_no_file_outside_the_index_can_be_fetched(path, server, films):
    with socket.create_connection(("localhost", server.server_address[1]), timeout=60) as raw:
        raw.sendall(f"GET {path.format(films=films)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404 ") and b"root:" not in answer


def test_parts_of_a_video_are_sent_as_a_browser_asks_for_them(server, films):
    yellow = moments(server, "/search?q=yellow&top=2")
    key = next(answer["film"] for answer in yellow if answer["name"] == "b.mp4")
    whole = (films / "more" / "b.mp4").read_bytes()
    status, headers, body = fetch(server, f"/video/{key}")
    assert (status, body, headers["Accept-Ranges"]) == (200, whole, "bytes") and headers["Content-Type"] == "video/mp4"
    for asked, part in (("bytes=0-", slice(0, None)), ("bytes=10-19", slice(10, 20)), ("bytes=-7", slice(-7, None))):
        status, headers, body = fetch(server, f"/video/{key}", Range=asked)
        assert status == 206 and body == whole[part]
        start, stop, _ = part.indices(len(whole))
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    status, headers, _ = fetch(server, f"/video/{key}", Range=f"bytes={len(whole)}-")
    assert status == 416 and headers["Content-Range"] == f"bytes */{len(whole)}"
    status, _, body = fetch(server, f"/video/{key}", Range="bytes=10-19", If_Range='"of another file"')
    assert status == 200 and body == whole
    status, headers, body = fetch(server, f"/video/{key}", method="HEAD")
    assert status == 200 and int(headers["Content-Length"]) == len(whole) and body == b""


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", range(0, 1)),
        ("bytes=5-1000", range(5, 100)),
        ("bytes=99-", range(99, 100)),
        ("bytes=-1000", range(0, 100)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=1٠-20", None),
    ],
)
def test_a_range_is_read_as_the_standard_says(header, expected):
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=200-300", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(header):
    with pytest.raises(UnsatisfiableError):
        parse_range(header, 100)
    with pytest.raises(UnsatisfiableError):
        parse_range("bytes=0-", 0)


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8765", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_a_site_that_points_its_name_at_this_machine_is_refused(name, server):
    status, _, body = fetch(server, "/search?q=red", Host=name)
    assert status == 403 and b"does not open under the name" in body and b"localhost on the machine itself" in body


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:1", "127.0.0.1:8765", "[::1]:8765", "192.168.0.7"])
def test_the_names_and_addresses_of_this_machine_are_accepted(name, server):
    assert fetch(server, "/search?q=red", Host=name)[0] == 200


def test_another_web_site_cannot_ask(server):
    port = server.server_address[1]
    assert fetch(server, "/search", method="POST", body=b"a", Origin="http://evil.example")[0] == 403
    assert fetch(server, "/search", method="POST", body=b"a", Origin="null")[0] == 403
    assert fetch(server, "/search?q=red", Origin=f"http://localhost:{port}")[0] == 200


def test_a_clip_that_was_not_sent_to_its_end_is_refused(server, films):
    clip = (films / "more" / "b.mp4").read_bytes()
    with socket.create_connection(("localhost", server.server_address[1]), timeout=60) as raw:
        raw.sendall(f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(clip) + 7}\r\n\r\n".encode())
        raw.sendall(clip)
        raw.shutdown(socket.SHUT_WR)
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ") and b"without its last 7 bytes" in answer


def test_a_disk_without_room_for_a_clip_is_named(server, monkeypatch, capsys):
    def fail(prefix):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(servers.tempfile, "TemporaryDirectory", fail)
    status, _, body = fetch(server, "/search", method="POST", body=b"clip")
    assert status == 507 and b"no room for the file" in body and capsys.readouterr().err == ""


def test_files_that_are_no_pictures_and_too_large_ones_are_refused(server, monkeypatch):
    status, _, body = fetch(server, "/search", method="POST", body=b"no picture")
    assert status == 415 and b"not a video file" in body and b"/tmp" not in body
    monkeypatch.setattr(servers, "LARGEST", 5)
    assert fetch(server, "/search", method="POST", body=b"123456")[0] == 413
    assert fetch(server, "/search", method="POST", Content_Length="x")[0] == 411
    assert fetch(server, "/other", method="POST", body=b"1")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "["}, 400),
        ({"Host": "a]b"}, 400),
        ({"Origin": "http://["}, 400),
        ({"Content_Length": "9" * 5000}, 413),
        ({"Content_Length": "0" * 5000 + "9" * 10}, 413),
    ],
)
def test_headers_that_make_no_sense_are_answered(headers, status, server, capsys):
    assert fetch(server, "/search", method="POST", **headers)[0] == status
    assert fetch(server, "http://[/")[0] == 400
    assert capsys.readouterr().err == ""


def test_a_client_that_leaves_before_it_is_refused_leaves_no_message(server, capsys):
    port = server.server_address[1]
    for _ in range(20):
        with socket.create_connection(("localhost", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the end is a reset
            client.sendall(f"GET /nothing HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
    assert fetch(server, "/")[0] == 200
    assert capsys.readouterr().err == ""


def test_an_index_that_is_damaged_or_gone_or_of_another_model_is_named(made, tmp_path, capsys):
    place = tmp_path / "films.index"
    shutil.copytree(made, place)
    manifest = (place / "index.json").read_bytes()

    def answer(change):
        change()
        status, _, body = fetch(server, "/search?q=red")
        return status, body.decode()

    with served(stgt.Index(place, Colours())) as server:
        assert answer(lambda: None)[0] == 200
        other = Colours()
        other.digest, other.name = "f" * 16, "others"
        shutil.rmtree(place)
        films = stgt.Index(made, Colours()).files[0].parent
        stgt.Index(place, other).update(films, workers=1)
        status, message = answer(lambda: None)
        assert status == 503 and "was made with the model others" in message
        status, message = answer(lambda: (place / "index.json").write_bytes(manifest[:99]))
        assert status == 503 and "index.json: the file is damaged" in message
        status, message = answer((place / "index.json").unlink)
        assert status == 503 and "No such file" in message
        shutil.rmtree(place)
        shutil.copytree(made, place)
        assert answer(lambda: None)[0] == 200
        [vectors] = place.glob("vectors-*")
        content = vectors.read_bytes()
        shutil.rmtree(place)
        shutil.copytree(made, place)
        vectors.write_bytes(content[:-100] + bytes(100))
        status, message = answer((place / "index.json").touch)
        assert status == 503 and "changed or damaged after they were written" in message
    assert capsys.readouterr().err == ""


def test_a_clip_that_takes_long_to_read_holds_up_nobody_else(server, films, monkeypatch):
    begun, done = threading.Event(), threading.Event()

    def call(path):
        begun.set()
        assert done.wait(60)
        return Failure("it took long")

    monkeypatch.setattr(server._reader, "call", call)
    answers = []
    clip = threading.Thread(target=lambda: answers.append(fetch(server, "/search", method="POST", body=b"clip")))
    clip.start()
    assert begun.wait(60)
    other = threading.Thread(target=lambda: answers.append(fetch(server, "/search?q=red")))
    other.start()
    other.join(30)
    done.set()
    clip.join()
    other.join()
    assert [status for status, _, _ in answers] == [200, 415]


def test_an_update_is_seen_and_odd_names_are_plain_text(tmp_path):
    (tmp_path / "films").mkdir()
    odd = film(tmp_path / "films" / "<img src=x onerror=alert(1)>\udce9.mp4", ("red", 1), format="mp4")
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "films", workers=1)
    with served(index) as server:
        assert moments(server, "/search?q=red")[0]["path"] == str(odd)
        film(tmp_path / "films" / "new.mp4", ("green", 1))
        stgt.Index(index.path, Colours()).update(workers=1)
        found = moments(server, "/search?q=green&top=1")[0]
        assert found["name"] == "new.mp4"
        os.unlink(tmp_path / "films" / "new.mp4")
        status, _, body = fetch(server, f"/video/{found['film']}")
        assert status == 404 and b"cannot be opened any more" in body


def test_the_command_listens_until_it_is_interrupted(made, monkeypatch, stgt):
    monkeypatch.setattr("stgt.search.index.open_encoder", lambda *_, **__: Colours())

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupt)
    status, printed = stgt("serve", made, "--port", 0)
    assert status == 130 and "12 moments of 3 videos at http://localhost:" in printed
    status, printed = stgt("serve", made, "--port", 70000)
    assert status == 2 and "--port is 70000" in printed
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, printed = stgt("serve", made, "--host", "127.0.0.1", "--port", port)
        assert status == 2 and f"cannot listen at host '127.0.0.1' and port {port} (Address already in use)" in printed
        assert "expected another port, or 0 for a free one" in printed
    status, printed = stgt("serve", made, "--host", "0.0.0.0", "--port", 0)
    assert " at http://localhost:" in printed and "http://IP-ADDRESS-OF-THIS-MACHINE:" in printed
    status, printed = stgt("serve", made, "--host", "a host.invalid")
    assert status == 2 and "cannot listen at host 'a host.invalid' and port 8765" in printed
    status, printed = stgt("serve", made.parent)
    assert status == 2 and "holds no index" in printed
