"""To a Hub and back, with huggingface_hub's own client and a Hub of the tests' own (tests/hub)."""

import os
import subprocess
import sys
from pathlib import Path

from tests.hub.hub_server import TOKEN


def test_round_trips_through_a_hub(tmp_path):
    command = [sys.executable, str(Path(__file__).parent / "run.py"), str(tmp_path / "home")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert TOKEN not in said
