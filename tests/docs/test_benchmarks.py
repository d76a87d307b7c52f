"""docs/images/benchmarks.svg: the figure of the README shows the results of the benchmarks."""

import json
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "benchmarks.svg"


def test_the_picture_is_what_the_script_draws(docs_script):
    written = PICTURE.read_text(encoding="utf-8")
    assert written == docs_script("draw_benchmarks").picture(), (
        "run: python docs/draw_benchmarks.py"
    )


def test_lengths_are_proportional_to_the_measured_rates():
    results = json.loads((ROOT / "benchmarks" / "results" / "AVX512-bf16.json").read_text())
    bars = [
        float(element.get("width", 0))
        for element in ElementTree.parse(PICTURE).iter("{http://www.w3.org/2000/svg}rect")
    ][1:]
    assert len(bars) == 7
    assert abs(bars[0] / bars[1] - results["st_bf16"]) < 0.05
    assert abs(bars[5] / bars[6] - results["serve_predict_bf16_64"]) < 0.2
