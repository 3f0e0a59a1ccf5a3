"""Runs the scenarios beside this file, with a server of their own: the client reads its settings as it is imported."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch

from tests.hub.hub_server import TOKEN, HubServer
from tests.pictures import blank

HERE = Path(__file__).parent


class Hub:
    """What scenarios ask for: the server, and the same arithmetic in each."""

    def __init__(self, server: HubServer):
        self.server = server

    def pytest_collection_finish(self):
        gc.collect()
        gc.freeze()  # each training asks for a collection

    @pytest.fixture
    def hub(self):
        yield self.server
        unused, self.server.failures = self.server.failures, []
        assert not unused, f"failures that nothing ran into: {unused}"

    @pytest.fixture(autouse=True)
    def _same_arithmetic(self):
        torch.manual_seed(0)
        torch.set_num_threads(1)


def main(home: str) -> int:
    server = HubServer()
    for name in [name for name in os.environ if name.startswith("HF_")]:
        del os.environ[name]
    os.environ |= {
        "NO_PROXY": "127.0.0.1",
        "HF_ENDPOINT": server.address,
        "HF_HOME": home,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    options = ["--confcutdir", str(HERE), "-o", "python_files=scenarios_*.py", "-p", "no:cacheprovider", "-s", "-v"]
    with blank():
        status = pytest.main([str(HERE), *options], plugins=[Hub(server)])
    leaked = [content for content in server.stored() if TOKEN.encode() in content]
    server.close()
    assert not leaked, f"the token is in {len(leaked)} uploaded files"
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
