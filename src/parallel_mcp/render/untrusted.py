"""Text that came from the web, or from anybody but us: cleaned, bounded, and put between marks it cannot close."""

import re

MARK = "untrusted-web-content"

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # bidi, zero-width, marks
    "\ud800-\udfff"  # halves of characters, which cannot be sent
    "\U000e0000-\U000e007f]"  # tag characters
)
_MARK_LIKE = re.compile(rf"<(?=\s*/?\s*{MARK})", re.IGNORECASE)


def clean(text: str) -> str:
    """The text as a reader sees it: no terminal sequences, no control, bidi, zero-width or tag characters."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return _INVISIBLE.sub("", _ANSI.sub("", lines))


def one_line(text: str, max_chars: int = 200) -> str:
    """The cleaned text on one line, cut to `max_chars`."""
    line = " ".join(clean(text).split())
    return line if len(line) <= max_chars else line[: max_chars - 1].rstrip() + "…"


def marked(text: str) -> str:
    """The cleaned text between marks. The marks are always the same; where the text holds one, it is broken."""
    return f"<{MARK}>\n{_MARK_LIKE.sub('&lt;', clean(text))}\n</{MARK}>"
