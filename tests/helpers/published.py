"""Small copies of the files that published data sets come with, and how a test writes them."""

import json

SENTENCES = [("video0", "a car is shown"), ("video7", "a man cooks"), ("video0", "someone drives"), ("video6", "a cat")]
MSRVTT = {
    "info": {"version": "1.0"},
    "videos": [
        {"video_id": "video0", "id": 0, "category": 9, "split": "train", "start time": 137.72},
        {"video_id": "video6", "id": 6, "category": 3, "split": "validate"},
        {"video_id": "video7", "id": 7, "category": 3, "split": "test"},
    ],
    "sentences": [{"video_id": v, "caption": c, "sen_id": i} for i, (v, c) in enumerate(SENTENCES)],
}
QUESTION = {"answer": "couch", "category_id": 14, "id": 158581, "question": "what is a man on?", "video_id": 6513}
ODD_LINE_ENDS = "a\u2028b\x85c\u2029d\x0ce\x1cf\rg"
"""Characters that str.splitlines takes for the ends of lines"""


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def webvid(folder, count=2, split="train", more=""):
    """WebVid's table with `count` videos, and `more` lines. Each caption has a line end within quotes."""
    table = "videoid,contentUrl,duration,page_dir,name\n"
    rows = [f'{n},https://x/{n}.mp4,PT00H00M11S,00600{n % 2},"Aerial\nshot, {n}"\n' for n in range(count)]
    write(folder / f"results_2M_{split}.csv", table + "".join(rows) + more)
    return folder
