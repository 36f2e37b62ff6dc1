"""Tables on the screen. Apart from what fills them, since rlc.status must start at once."""

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """On a terminal as wide as it is, elsewhere wide enough."""
    # Without a terminal rich assumes 80 columns, too few for the table.
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=200)
    console.print(table)
