"""The target `comity`: a folder with everything that `load` needs, and nothing of the run."""

from pathlib import Path

from comity.export.folders import Part, Source, largest_difference, row_code
from comity.export.samples import sample_rows
from comity.inference.model import load
from comity.inference.saved_model import write_saved_model
from comity.targets import HeadSpec

LIBRARY = "comity"
PACKAGES = ()
TOLERANCE = 0.0  # equal to the bit


def lacks(spec: HeadSpec) -> str | None:
    """Why a head cannot be expressed; None, since every head can."""
    return None


def write(source: Source, folder: Path, tasks: list[str]) -> list[Part]:
    """Write the model into an empty folder."""
    directory = source.directory
    write_saved_model(folder, directory.kept_model(), directory.kept_facts(), directory.recipe())
    return [Part(".", "model", tuple(source.model.tasks), "comity.Model", source.untrained_note)]


def difference(source: Source, folder: Path, part: Part) -> float:
    """The largest difference of any output from the run's own model, in the run's precision."""
    ours, theirs = load(source.directory, "cpu"), load(folder, "cpu")
    found = []
    for task in part.tasks:
        rows = sample_rows(source, task)
        found.append(largest_difference(theirs.outputs(task, rows), ours.outputs(task, rows)))
    return max(found)


def example(source: Source, part: Part, path: str) -> str:
    """Code that loads the part from `path` and uses it."""
    lines = ["from comity import Model", "", f'model = Model.from_pretrained("{path}")']
    for task in part.tasks:
        row = row_code(source.model.text_count(task))
        lines.append(f'model.predict("{task}", [{row}])')
    return "\n".join(lines)
