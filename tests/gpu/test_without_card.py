"""The tests on a pretended card, in a process of their own: torch forks none that has had threads for a card."""

import os
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.reliability.real_processes import forked


def test_nothing_waits_for_a_pretended_card_or_mixes_devices(tmp_path):
    command = ["-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("without_card.py"))]

    log = tmp_path / "log"

    def act() -> None:
        with log.open("w") as file, redirect_stdout(file):
            assert pytest.main(command) == pytest.ExitCode.OK

    process = forked(act, log)
    assert os.waitpid(process, 0)[1] == 0, log.read_text()[-4000:]
    assert "[100%]" in log.read_text()
