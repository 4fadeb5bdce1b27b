"""An error -> the text of a tool error: what happened, code, whether a retry helps, the next step."""

from parallel_mcp.errors import InvalidArguments, ResearchError
from parallel_mcp.render.untrusted import identifier, marked, one_line

MAX_QUOTE_CHARS = 500


def error_text(error: ResearchError, *, next_step: str = "") -> str:
    """What the model is told. Somebody else's words are quoted between marks, cleaned and cut to 500 characters.

    A `next_step` takes the place of the error's own, and of its advice on retrying.
    """
    lines = [_what_happened(error)]
    if error.quote:
        speaker = "In the result" if isinstance(error, InvalidArguments) else "The API says"
        lines.append(f"{speaker}: {marked(one_line(error.quote, MAX_QUOTE_CHARS))}")
    if reference := identifier(error.ref_id):
        lines.append(f"Reference: {reference}")
    lines.append(f"Code: {error.code}." if next_step else f"Code: {error.code}. {error.retry}")
    lines.append(f"Next: {next_step or error.next_step}")
    return "\n".join(lines)


def _what_happened(error: ResearchError) -> str:
    text = str(error)
    return text if text.endswith((".", "?", ")")) or "\n" in text else text + "."
