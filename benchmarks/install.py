"""What `pip install` of the light core brings, and whether `buddy-ops rollback` works in it.

Run it with ``python -m benchmarks.install``. The wheel and the versions of requirements/core.txt are installed into a
virtual environment of their own in build/install.
"""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.rollback import FUNCTION, bad, publish
from buddy_ops.cli import sandbox

ROOT = Path(__file__).parents[1]
PLACE = Path("build/install")
LIMIT_MB = 40
NOT_OURS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
"""What a new virtual environment has already."""


def main() -> None:
    """Install, print the sizes, and roll back on a sandbox."""
    venv.create(PLACE, with_pip=True, clear=True)
    lock = (ROOT / "requirements/core.txt").read_text("utf-8")
    (PLACE / "versions.txt").write_text("\n".join(re.findall(r"^[\w.-]+==[\w.]+", lock, re.M)))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(PLACE.absolute() / "wheel")]
    subprocess.run(build, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = (PLACE / "wheel").glob("*.whl")
    pip = [str(PLACE / "bin/pip"), "-q", "--disable-pip-version-check"]
    given = ["-c", str(PLACE / "versions.txt"), str(wheel)]
    subprocess.run([*pip, "download", "--only-binary=:all:", "-d", str(PLACE / "downloads"), *given], check=True)
    subprocess.run([*pip, "install", *given], check=True)
    (site,) = (PLACE / "lib").glob("python*/site-packages")
    sizes = {path.name: size(path) for path in site.iterdir() if path.name.partition("-")[0] not in NOT_OURS}
    total = sum(sizes.values())
    print(f"download    {size(PLACE / 'downloads'):5.1f} MB in {len(list((PLACE / 'downloads').iterdir()))} packages")
    compiled = sum(size(path) for path in site.rglob("*.pyc") if path.relative_to(site).parts[0] in sizes)
    print(f"installed   {total - compiled:5.1f} MB (aim: at most {LIMIT_MB}), and {compiled:.1f} of bytecode by pip")
    for name, megabytes in sorted(sizes.items(), key=lambda each: -each[1])[:8]:
        print(f"  {name:<26}{megabytes:5.1f}")
    roll_back()


def size(path: Path) -> float:
    """The bytes in a file, or in all files of a folder, in MB (10^6)."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file()) / 1e6


def roll_back() -> None:
    """``buddy-ops rollback --yes`` of this installation, on a sandbox of this checkout."""
    with sandbox.running_sandbox() as url:
        lam = publish(url)
        bad(lam)
        command = [
            str((PLACE / "bin/buddy-ops").absolute()),
            "rollback",
            "--yes",
            "--approved-by",
            "A",
            "--to-version",
            "1",
        ]
        done = subprocess.run(command, env={**os.environ, "AWS_ENDPOINT_URL": url}, check=False)
        served = lam.get_alias(FunctionName=FUNCTION, Name="live")["FunctionVersion"]
    print(f"rollback: exit code {done.returncode}, the alias serves v{served}")


if __name__ == "__main__":
    main()
