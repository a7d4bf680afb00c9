"""How recipes print their results."""

from rich.console import Console
from rich.table import Table


def show_table(title: str, rows: list[dict]) -> None:
    """Prints rows as a table: words to the left of their column, numbers to the right."""
    table = Table(title=title)
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if str(value)[:1].isalpha() else "right", no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=max(110, Console().width)).print(table)
