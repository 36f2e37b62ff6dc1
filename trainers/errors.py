"""What a user can put right."""


def one_line(text: str) -> str:
    """The text with every run of white space, line breaks included, as one space."""
    return " ".join(text.split())


class UserError(Exception):
    """Input that cannot be right, in one line: what was given and what is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))
