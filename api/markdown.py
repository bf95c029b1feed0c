"""User text in Markdown, where it can end neither a line nor a table cell."""


def plain(text: str) -> str:
    """Return user text on one line that cannot end a table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Return user text as code."""
    return f"`{plain(text).replace('`', '')}`"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table; cells are Markdown already."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in [header, *rows])
    return [head, "|---" * len(header) + "|", *body]
