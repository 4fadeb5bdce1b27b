"""Text that came from the web, or from anybody but us: cleaned, bounded, and put between marks it cannot close."""

import re

MARK = "untrusted-web-content"

# A sequence without its end loses only its first character, or it would hide all the text behind it.
_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # colours, cursor moves
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]{0,1000}(?:\x07|\x1b\\|\x9c)"  # titles, links
    r"|\x1b[@-Z\\-_]"
)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"  # bidi, zero-width, fillers
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a"
    "\ud800-\udfff"  # halves of characters, which cannot be sent
    "\U000e0000-\U000e0fff]"  # tag characters, variation selectors
)
_MARK_LIKE = re.compile(rf"[<\u2039\u3008\ufe64\uff1c](?=\s*/?\s*{MARK})", re.IGNORECASE)
# What a client would load by itself on showing the text: its address can carry away what the model knows.
_IMAGE = re.compile(r"!(?=\[)")
_LOADING_TAG = re.compile(
    r"<(?=(?:img|image|picture|source|video|audio|track|iframe|frame|object|embed|link|script|style|svg|input|body|"
    r"table|td|th|form|base|meta)\b)",
    re.IGNORECASE,
)
# `https://name:password@host`: hands over a password, or makes a host look like another.
_USER_IN_ADDRESS = re.compile(r"""([:(<"'=][/\\]{2,})(?:[^\s/\\?#@"<>]*@[/\\]*)+""")


def clean(text: str) -> str:
    """The text as a reader sees it: no terminal sequences, no control, bidi, zero-width or tag characters."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return _INVISIBLE.sub("", _TERMINAL.sub("", lines))


def harmless(text: str) -> str:
    """The cleaned text, safe to be rendered as Markdown: images are links, addresses hold no user, marks are broken."""
    without_images = _LOADING_TAG.sub("&lt;", _IMAGE.sub("! ", clean(text)))
    return _MARK_LIKE.sub("&lt;", _USER_IN_ADDRESS.sub(r"\1", without_images))


def one_line(text: str, max_chars: int = 200) -> str:
    """The cleaned text on one line, cut to `max_chars`."""
    line = " ".join(clean(text).split())
    return line if len(line) <= max_chars else line[: max_chars - 1].rstrip() + "…"


def identifier(text: str, max_chars: int = 128) -> str:
    """An id that somebody else made, or nothing if it does not look like one: the only text of others outside marks."""
    return text if re.fullmatch(rf"[A-Za-z0-9._:-]{{1,{max_chars}}}", text) else ""


def marked(text: str) -> str:
    """The text, harmless, between marks. They are always the same; where the text holds one, it is broken."""
    return f"<{MARK}>\n{harmless(text)}\n</{MARK}>"
