"""(e) n2q-edge: `open_model` and `assess`, both with their defaults; whole slices are also scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge.assessment.run import assess
from n2q_edge.bench.child import peak_mib, serve, timed
from n2q_edge.dicom import scan
from n2q_edge.runtimes import open_model


def start(options: dict[str, Any]) -> Any:
    runtime = open_model(Path(options["onnx"]))
    inventory = scan([Path(options["series"])])
    hu = np.load(options["input"])
    runtime.infer(hu)

    def infer(slices: int) -> dict[str, Any]:
        return {"total": timed(lambda: runtime.infer(hu), slices)}

    def end_to_end(slices: int) -> dict[str, Any]:
        """The whole series, at least `slices` of them: stages overlap, so only the mean has a meaning.

        `SeriesReport.seconds` leaves out the warm-up, as the competitors' times do.
        """
        done, seconds = 0, 0.0
        while done < slices:
            assessment = assess(inventory, runtime)
            done += assessment.slices_assessed
            seconds += sum(report.seconds for report in assessment.series)
        return {"total": [1000 * seconds / done]}

    def save(path: str) -> dict[str, Any]:
        np.save(path, runtime.infer(hu).quality_map[0, 0])
        return {}

    def memory() -> dict[str, Any]:
        return {"peak_mib": peak_mib()}

    facts = runtime.describe()
    ready = {"library": f"{facts['name']} {facts['version']}, {facts['threads']} threads"}
    return ready, {"infer": infer, "end_to_end": end_to_end, "save": save, "memory": memory}


if __name__ == "__main__":
    serve(start)
