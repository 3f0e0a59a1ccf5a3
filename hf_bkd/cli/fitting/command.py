"""Fit, measure, save, say so."""

import shutil
from pathlib import Path

from accelerate import PartialState

from ...hub.transfer import push_folder
from ...metrics import classification_metrics
from ...teachers import predict_all
from ...utils.errors import UserError
from ...utils.files import whole_folder, writable_folder
from .methods import METHODS
from .options import parse_fit
from .task import start


def fit(argv: list[str]) -> None:
    """Fit the teacher that the command line asks for, save it and print how good it is.

    Raises:
        UserError: what a user can cause and mend.
    """
    options, args = parse_fit(argv)
    output_dir = Path(args.output_dir)
    if output_dir.exists():
        raise UserError(f"{output_dir} is there already: pass a new --output_dir")
    writable_folder(output_dir.parent)
    task = start(options, args)
    teacher = METHODS[options.method](task)
    teacher.record |= task.record()
    if "validation" not in teacher.record:
        found = predict_all(teacher, task.batches(task.validation), options.num_samples)
        teacher.record["validation"] = classification_metrics(*found)
    if PartialState().is_main_process:
        with whole_folder(output_dir) as temporary:
            teacher.save_pretrained(temporary)
            task.reader.save(temporary)
        shutil.rmtree(task.checkpoints, ignore_errors=True)
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in teacher.record["validation"].items())
        print(f"{options.method} teacher in {output_dir}; on {len(task.validation)} validation examples: {metrics}")
        if args.push_to_hub:
            name = args.hub_model_id or output_dir.name
            print(f"pushed: {push_folder(output_dir, name, private=args.hub_private_repo, token=args.hub_token)}")
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
