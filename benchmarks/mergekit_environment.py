"""A virtual environment with mergekit, for the benchmarks that run it beside Mergefront.

    python benchmarks/mergekit_environment.py [FOLDER]

mergekit (LGPL-3.0) is run as its authors published it, from its own environment. The versions of what both tools use
(torch, transformers, safetensors, numpy, pydantic) are those of constraints.txt, so that neither has an advantage; what
mergekit alone needs is pinned below to what it was tried with. torch must be pinned at any rate: by itself, pip takes
the newest one, on Linux with gigabytes of CUDA libraries. A folder that holds these versions already is used as it is.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("mergekit_worker.py")
CONSTRAINTS = REPOSITORY / "constraints.txt"
REQUIREMENTS = ("mergekit==0.1.5", "torch==2.13.0", "immutables==0.21", "peft==0.21.2", "sentencepiece==0.2.3")
SHARED = ("torch", "transformers", "safetensors", "numpy", "pydantic")
"""Another pin of one of these in constraints.txt makes an environment out of date."""
MARK = "mergekit-requirements.sha256"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder(), help="default: %(default)s")
    print(mergekit_python(parser.parse_args().folder))


def default_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mergefront" / REQUIREMENTS[0].replace("==", "-")


def mergekit_python(folder: Path) -> Path:
    """Return the Python of the environment in `folder`, which is made first if it is not there as wanted."""
    folder = folder.absolute()
    if folder.is_relative_to(REPOSITORY):
        sys.exit(f"{folder} is inside the repository; name a folder elsewhere")
    python, mark, wanted = folder / "bin" / "python", folder / MARK, requirements_digest()
    if mark.exists() and mark.read_text() == wanted and python.exists():
        return python
    print(f"installing {REQUIREMENTS[0]} to {folder}: a few minutes, once", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", str(CONSTRAINTS), *REQUIREMENTS], check=True, stdout=sys.stderr)
    subprocess.run([str(python), "-c", "import mergekit.merge"], check=True)
    mark.write_text(wanted)
    return python


def requirements_digest() -> str:
    pins = [line for line in CONSTRAINTS.read_text().splitlines() if line.split("==")[0] in SHARED]
    return hashlib.sha256("\n".join([*REQUIREMENTS, *pins]).encode()).hexdigest()


class Mergekit:
    """mergekit in a process of its own, which imports once and merges many times."""

    def __init__(self, python: Path) -> None:
        self._command = [str(python), str(WORKER)]

    def __enter__(self) -> "Mergekit":
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def merge(self, job: dict[str, Any]) -> float:
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer = self._answer()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["seconds"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"mergekit's process ended with status {self.process.wait()}")
        return json.loads(line)


if __name__ == "__main__":
    main()
