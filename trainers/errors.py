"""What a user can put right."""


def one_line(text: str) -> str:
    """The text with every run of white space, line breaks included, as one space.

    Other characters that are not printed, such as those that steer a terminal, stand as Python writes them: text of
    files is part of messages.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


class UserError(Exception):
    """Input that cannot be right, in one line: what was given and what is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def shown(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(part).__name__ for part in value)})"
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    if shape is None:
        return f"{kind} {str(value)[:60]}"
    return f"{kind} of shape {tuple(shape)}: {str(value)[:60]}"
