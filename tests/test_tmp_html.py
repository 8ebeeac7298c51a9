import os, shutil
from pathlib import Path
from buddy_ops import runs
from tests.conftest import *
from tests.sandbox.corruption import repair_hash
def test_x(situation):
    here = situation("corruption", requests_per_minute=60, history_minutes=10)
    h = repair_hash(here)
    r = runs.run("emergency/data_corruption", {"environment": "sandbox", "approved_by":["Ada"], "approved_plan": h}, folder=here.folder/"runs"/"a")
    print(r.exit_code, r.trouble)
    shutil.copy(r.report, "/tmp/report.html"); shutil.copytree(r.folder, "/tmp/rf", dirs_exist_ok=True)
    assert r.exit_code == 0
