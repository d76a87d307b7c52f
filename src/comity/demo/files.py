"""The recipe and the data files of the demo, for users who want to try commands on them."""

import shutil
from pathlib import Path

from comity.errors import ComityError

HERE = Path(__file__).parent


def write_files(folder: Path) -> list[Path]:
    """Copy the demo's recipe (as recipe.toml) and data files to a folder; returns their paths.

    Raises:
        ComityError: a file of that name exists there, or cannot be written.
    """
    sources = {"recipe.toml": HERE / "demo.toml"}
    sources |= {source.name: source for source in sorted((HERE / "corpus").glob("*.csv"))}
    taken = [name for name in sources if (folder / name).exists()]
    if taken:
        raise ComityError(f"{folder / taken[0]}: already exists; name another folder with --files")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(source, folder / name)) for name, source in sources.items()]
    except OSError as error:
        raise ComityError(
            f"{folder}: the files cannot be written ({error.strerror}); name another folder with "
            "--files"
        ) from None
