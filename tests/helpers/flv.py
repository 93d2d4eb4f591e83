"""FLV files as live streams leave them, made of the tags of other FLV files."""


def join(target, parts, pauses):
    """Write the tags of FLV files one after the other, those of each file some milliseconds later than stored."""
    joined = bytearray(b"FLV\x01\x01\x00\x00\x00\x09\x00\x00\x00\x00")
    for part, pause in zip(parts, pauses, strict=True):
        for tag in _tags(part.read_bytes()):
            time = (int.from_bytes(tag[4:7], "big") | tag[7] << 24) + pause
            tag[4:8] = (time & 0xFFFFFF).to_bytes(3, "big") + bytes([time >> 24])
            joined += tag
    target.write_bytes(joined)
    return target


def sound(milliseconds):
    """A tag with a packet of MP3, which nothing announced before."""
    body = b"\x2f\xff\xfb\x90\x00" + bytes(413)
    time = (milliseconds & 0xFFFFFF).to_bytes(3, "big") + bytes([milliseconds >> 24])
    return b"\x08" + len(body).to_bytes(3, "big") + time + bytes(3) + body + (len(body) + 11).to_bytes(4, "big")


def _tags(data):
    """The tags of a file, without the metadata and without the tag that ends a sequence of H.264."""
    place = 13
    while place < len(data):
        tag = bytearray(data[place : place + int.from_bytes(data[place + 1 : place + 4], "big") + 15])
        if tag[0] != 18 and tag[11:13] != b"\x17\x02":
            yield tag
        place += len(tag)
