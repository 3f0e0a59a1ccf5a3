"""Run the command line as a module: ``python -m hf_bkd.cli``, which launchers of several processes ask for."""

from . import main

main()
