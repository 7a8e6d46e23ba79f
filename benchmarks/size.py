"""Lines per layer and the largest files and functions; exits 1 above the budget.

A size that only grows when somebody decides so keeps the project readable in one sitting.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "beicli"
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
# Of these about 2,200 are the OpenAPI document, which is data, and 1,300 are networks and
# configurations that transformers lacks or spells otherwise, a file a family.
MAX_TOTAL_LINES = 47_000


def main() -> None:
    """Print the report, and what is above the budget."""
    lines = {
        path.relative_to(SOURCE): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(SOURCE.rglob("*.py"))
    }
    layers: dict[str, list[int]] = {}
    for path, count in lines.items():
        layers.setdefault(path.parts[0], []).append(count)
    print(f"{'layer':<14} {'files':>5} {'lines':>6} {'largest':>8}")
    for layer, counts in layers.items():
        print(f"{layer:<14} {len(counts):>5} {sum(counts):>6} {max(counts):>8}")
    total = sum(lines.values())
    print(f"{'total':<14} {len(lines):>5} {total:>6}")
    excesses = [
        f"{p}: {n} lines, {MAX_FILE_LINES} allowed" for p, n in lines.items() if n > MAX_FILE_LINES
    ]
    excesses += list(long_functions(lines))
    if total > MAX_TOTAL_LINES:
        excesses.append(f"{total} lines in all, {MAX_TOTAL_LINES} allowed")
    for excess in excesses:
        print(excess, file=sys.stderr)
    sys.exit(bool(excesses))


def long_functions(paths: dict[Path, int]) -> Iterator[str]:
    """Name the functions whose body is above the budget; signatures and docstrings are free."""
    for path in paths:
        tree = ast.parse((SOURCE / path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                count = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
                if count > MAX_FUNCTION_LINES:
                    yield f"{path}: {node.name} has {count} lines, {MAX_FUNCTION_LINES} allowed"


if __name__ == "__main__":
    main()
