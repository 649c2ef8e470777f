"""Times setting up the project and running its tests in a fresh clone.

    python -m benchmarks.test_suite [RUNS]

Clones the committed state of this repository to an empty folder, RUNS times (1), and prints how
long each step takes next to its target. The clone gets its own virtual environment. The time of
`import lightning.pytorch` is printed as a reference for the speed of the machine.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent

STEPS = {
    "set up": (["make", "setup"], 90),
    "lint": (["make", "lint"], 20),
    "test": ([".venv/bin/python", "-m", "pytest", "-n", "auto", "--dist", "worksteal"], 150),
}
"""The command of each step, and its target in seconds on two quiet cores."""

TOTAL_TARGET_SECONDS = 240


def run_steps(clone: Path) -> None:
    """Run all steps in a clone and print their times.

    Raises:
        SystemExit: with the output of the first step that fails.
    """
    total = 0.0
    for name, (command, target) in STEPS.items():
        start = time.perf_counter()
        result = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if result.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
        total += seconds
        print(f"{name:8} {seconds:6.1f} s   target {target:4} s", flush=True)
    print(f"{'total':8} {total:6.1f} s   target {TOTAL_TARGET_SECONDS:4} s")
    start = time.perf_counter()
    subprocess.run([".venv/bin/python", "-c", "import lightning.pytorch"], cwd=clone, check=True)
    print(f"import lightning.pytorch: {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    """Clone the repository and time its steps, as often as requested."""
    n_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    for _ in range(n_runs):
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "names-rnn"
            subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
            run_steps(clone)


if __name__ == "__main__":
    main()
