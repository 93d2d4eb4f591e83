"""Reads the pages of pictures that commands write."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags, addresses, figures (their ids and pictures) and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.figures, self.text = [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[name] for name in ("src", "href", "srcset", "data") if name in attributes]
        if tag == "figure":
            self.figures[attributes["id"]] = None
        if tag == "img":
            self.figures[list(self.figures)[-1]] = attributes["src"]

    def handle_data(self, data):
        self.text += data
