"""Runs docs/walkthrough.ipynb without Jupyter, and stores the new outputs of its cells.

python -m benchmarks.notebook
"""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from src.run.figures import render_png

NOTEBOOK = Path(__file__).parents[1] / "docs/walkthrough.ipynb"


def read_notebook() -> Any:
    """Return the stored notebook."""
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def run_notebook(notebook: Any) -> None:
    """Run the code cells from top to bottom in one namespace, and replace their outputs."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code_cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code_cells, start=1):
        cell["execution_count"] = number
        cell["outputs"] = _run_cell("".join(cell["source"]), namespace, number)


def _run_cell(source: str, namespace: dict[str, Any], number: int) -> list[Any]:
    """Run a cell and return its outputs: the printed text, and the value of its last expression.

    Args:
        source: the code of the cell.
        namespace: the variables of the notebook by name, which the cell can change.
        number: number of the cell from 1.
    """
    file_name = f"cell {number}"
    *statements, last_statement = ast.parse(source).body
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if isinstance(last_statement, ast.Expr):
            module = ast.Module(statements, type_ignores=[])
            exec(compile(module, file_name, "exec"), namespace)
            expression = ast.Expression(last_statement.value)
            value = eval(compile(expression, file_name, "eval"), namespace)
        else:
            exec(compile(source, file_name, "exec"), namespace)
    outputs: list[Any] = []
    text = printed.getvalue()
    if text:
        lines = text.splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
    if value is not None:
        result = {
            "output_type": "execute_result",
            "execution_count": number,
            "metadata": {},
            "data": _format_value(value),
        }
        outputs.append(result)
    return outputs


def _format_value(value: Any) -> dict[str, Any]:
    """Return a value by MIME type: as a picture if it is a figure, otherwise as text."""
    if isinstance(value, Figure):
        return {"image/png": base64.b64encode(render_png(value)).decode()}
    return {"text/plain": repr(value).splitlines(keepends=True)}


def main() -> None:
    """Run the notebook and store it with its outputs."""
    notebook = read_notebook()
    run_notebook(notebook)
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    NOTEBOOK.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
