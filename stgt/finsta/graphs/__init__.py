"""Scene graphs of texts and videos: their format, readers of annotations, a text parser and a video finder."""
