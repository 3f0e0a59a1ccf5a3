"""The tests on a pretended card, in a process of their own: torch forks none that has had threads for a card."""

import subprocess
import sys
from pathlib import Path


def test_nothing_waits_for_a_pretended_card_or_mixes_devices():
    file = Path(__file__).with_name("without_card.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, cwd=file.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "[100%]" in done.stdout
