"""A run on a real cluster whose probes are jobs of their own, submitted from within its job."""

import re
from pathlib import Path

from jepa_pipeline.results.probe_report import load_report

ROOT = Path(__file__).parents[2]
RECIPE, SITE = ROOT / "configs/debug/ijepa.yaml", ROOT / "slurm/dev-cluster/site.yaml"


def test_a_job_of_two_processes_submits_a_probe_for_each_snapshot(project, until):
    probing = f"probing={{every_steps: 10, site: {SITE}, arguments: [--data, data/demo, 'protocols=[knn]', workers=0]}}"
    said = project("submit", "pretrain", RECIPE, "name=probed", probing, "--set", "tasks_per_node=2")
    run = project.folder / "runs/probed"
    assert re.search(r"^job \d+: jepa pretrain", said)

    def reports():
        found = [*run.glob("probes/*.json")]
        return found if len(found) == 2 else None

    def shown():
        return project("jobs", "--all") + "".join(path.read_text() for path in run.rglob("*.log"))

    assert sorted(load_report(path).step for path in until(reports, shown=shown)) == [10, 20]
    listed = project("jobs")
    assert re.search(r"probe-step-00000010 +probed +(COMPLETED|RUNNING)", listed), listed
    assert len([*(run / "jobs").glob("[0-9]*.json")]) == 3
    assert not [*run.glob("snapshots/*/asked")]
