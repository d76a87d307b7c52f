"""Packages for `make gpu` on a machine without a network, and the start of benchmarks/gpu.py.

    python benchmarks/gpu_setup.py download [--python 3.12]    # make gpu-wheels: fills wheels/
    python benchmarks/gpu_setup.py run [OPTIONS]               # make gpu

`download` needs a network. `run` needs none: it unpacks wheels/ to build/gpu-packages and starts
benchmarks/gpu.py with the torch that is installed, which stays as it is. Without wheels/ it takes
the packages that are installed. This file imports the standard library and torch only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "wheels"
PACKAGES = ROOT / "build" / "gpu-packages"

MOST_BYTES = 64_000_000
"""The wheels have to fit into this."""

OLDEST_TORCH = (2, 10)  # as in pyproject.toml

# What training and the Trainer import, without torch and numpy. pyarrow is not among them because
# the corpus of the demo is CSV.
NEEDED = (
    "accelerate", "annotated-doc", "annotated-types", "anyio", "click", "cloudpickle", "filelock",
    "fsspec", "h11", "httpcore2", "httpx2", "huggingface-hub", "idna", "jinja2", "joblib",
    "markdown-it-py", "markupsafe", "mdurl", "narwhals", "packaging", "psutil", "pydantic",
    "pydantic-core", "pygments", "pyyaml", "regex", "rich", "safetensors", "scikit-learn", "scipy",
    "shellingham", "shtab", "threadpoolctl", "tokenizers", "tomli-w", "tqdm", "transformers",
    "truststore", "typer", "typing-extensions", "typing-inspection",
)  # fmt: skip


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["download", "run"])
    parser.add_argument("--python", help="download for this version of Python, such as 3.12")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options, others = parser.parse_known_args()
    if options.command == "download":
        return download(options.python)
    return run(options.device, others)


def download(version: str | None) -> int:
    """Fill wheels/ with the pinned packages; returns the exit code."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(WHEELS)]
    command += ["-c", str(ROOT / "constraints.txt"), "--only-binary", ":all:"]
    command += ["--python-version", version] if version else []
    subprocess.run([*command, *NEEDED], check=True)
    size = 0
    for path in sorted(WHEELS.glob("*.whl")):
        compress(path)
        size += path.stat().st_size
    print(f"{WHEELS.name}/: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        print(f"That is more than {MOST_BYTES / 1e6:.0f} MB.", file=sys.stderr)
    return int(size > MOST_BYTES)


def compress(path: Path) -> None:
    """Compress a wheel with LZMA, which pip reads too: the plain wheels are too large."""
    smaller = path.with_suffix(".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(smaller, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            member.compress_type = zipfile.ZIP_LZMA
            new.writestr(member, data)
    smaller.replace(path)


def run(device: str, arguments: list[str]) -> int:
    """Start benchmarks/gpu.py; returns its exit code, or 0 if there is no GPU."""
    if device == "cuda" and (reason := no_gpu()):
        print(f"{reason}, so nothing was run.")
        return 0
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        print(f"torch {torch.__version__} is too old; comity needs 2.10 or newer", file=sys.stderr)
        return 1
    paths = [ROOT / "src"]
    if WHEELS.is_dir():
        if not unpack():
            return 1
        paths.insert(0, PACKAGES)
    paths = [*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", device, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(script, env=environment).returncode


def no_gpu() -> str | None:
    """Why there is no GPU to use; None if there is one."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch (choose another Python with make gpu PYTHON=...)"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU"
    return None


def unpack() -> bool:
    """Unpack wheels/ for this Python; whether that worked."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--disable-pip-version-check", "--target", str(PACKAGES)]
    command += ["--find-links", str(WHEELS), "-c", str(ROOT / "constraints.txt")]
    if subprocess.run([*command, *NEEDED]).returncode == 0:
        _write_version()
        return True
    version = ".".join(map(str, sys.version_info[:2]))
    print(
        f"{WHEELS}: does not fit Python {version}; fill it with make gpu-wheels "
        f"GPU_PYTHON={version}",
        file=sys.stderr,
    )
    return False


def _write_version() -> None:
    """Say which version of Comity src/ is, as an installation would: runs record it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = PACKAGES / f"comity-{project['version']}.dist-info"
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: comity\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
