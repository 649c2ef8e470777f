"""Run docs/walkthrough.ipynb without Jupyter, and store anew what its cells put out.

python -m benchmarks.notebook
"""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "docs/walkthrough.ipynb"


def read() -> Any:
    """Return the notebook as it is stored."""
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def run(notebook: Any) -> None:
    """Run the code cells, top to bottom in one namespace, and replace their outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs("".join(cell["source"]), names, number)


def _outputs(source: str, names: dict[str, Any], number: int) -> list[Any]:
    """Run a cell; return what it prints, and the value of its last line if that is one."""
    *lines, last = ast.parse(source).body
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(lines, []), f"cell {number}", "exec"), names)
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        else:
            exec(compile(source, f"cell {number}", "exec"), names)
    outputs: list[Any] = []
    if text := printed.getvalue():
        text_lines = text.splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text_lines})
    if value is not None:
        data: Any = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_png_"):
            data = {"image/png": base64.b64encode(value._repr_png_()).decode()}
        result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append(result | {"data": data})
    return outputs


def main() -> None:
    """Store the notebook with its outputs."""
    notebook = read()
    run(notebook)
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    NOTEBOOK.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
