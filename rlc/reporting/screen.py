"""Tables on the screen. Apart from what fills them, since rlc.status must start at once."""

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """On a terminal as wide as it is, elsewhere wide enough."""
    # Names and labels are no markup: "[red]" and ":x:" in them stand as they are.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200  # rich assumes 80 columns, too few for the table
    console.print(table)
