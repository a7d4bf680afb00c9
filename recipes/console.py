"""How recipes print their results."""

from rich.console import Console
from rich.table import Table


def show_table(title: str, rows: list[dict]) -> None:
    """Prints rows as a table whose columns are those of the first row."""
    table = Table(title=title)
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if str(value)[:1].isalpha() else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in rows[0]))
    Console(width=max(110, Console().width)).print(table)


def _text(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
