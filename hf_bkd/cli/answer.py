"""`hf-bkd answer`: from a language model and prompts to sampled answers, which students are taught."""

import argparse
from collections.abc import Callable
from pathlib import Path

import transformers

from ..data.loading import choose_split, load_splits
from ..models.saving import damage_refused
from ..responses import aggregate_responses, generate_responses, read_responses_record, sentence_encoder
from ..responses.embedding import Encoder
from ..utils.errors import UserError
from ..utils.processes import processes
from . import options
from .arguments import check_seed, quiet
from .finished import contents, finish
from .networks import load_trained, network_folder, processor_of

FREE = ("output_dir", "batch_size")  # they don't change what is saved
ASKED = (
    "k", "num_samples", "template", "temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens",
    "token_labels", "batch_size", "seed",
)  # fmt: skip


def main(argv: list[str], prog: str = "hf-bkd answer") -> None:
    """Sample answers and save them; what is finished when interrupted is kept beside the output folder."""
    arguments = options.answer(prog).read(argv)
    check_seed(arguments.seed)
    if (arguments.aggregate == "mean") != (arguments.encoder is not None):
        needs = (
            "pass --encoder, such as sentence-transformers/all-MiniLM-L6-v2"
            if arguments.encoder is None
            else "omit it"
        )
        raise UserError(f"--encoder is for --aggregate mean, which chooses by embeddings: {needs}")
    quiet()
    output_dir = Path(arguments.output_dir)
    shards = output_dir.with_name(f"{output_dir.name}.shards")
    settings = {name: value for name, value in vars(arguments).items() if name not in FREE}
    sources = {name: getattr(arguments, name) for name in ("teacher", "dataset", "encoder")}
    settings |= {f"{name}'s content": source and contents(source) for name, source in sources.items()}
    finish(output_dir, shards, settings, lambda: _answered(arguments, output_dir, shards))


def _answered(arguments: argparse.Namespace, output_dir: Path, shards: Path) -> Callable[[Path], str]:
    """Sample the answers shard by shard; return what saves those that are taught."""
    encoder = None if arguments.encoder is None else _encoder(arguments.encoder)
    teacher = load_trained(arguments.teacher).to(processes().device)
    splits = load_splits(arguments.dataset, configuration=arguments.dataset_config)
    rows = splits[choose_split(splits, arguments.split, ("train",), arguments.dataset)]
    asked = {name: getattr(arguments, name) for name in ASKED}
    responses = generate_responses(rows, teacher, folder=shards, **asked)

    def save(folder: Path) -> str:
        own = arguments.aggregate == "none"
        made = responses if own else aggregate_responses(responses, arguments.aggregate, encoder)
        made.save_to_disk(folder)
        record = read_responses_record(responses)
        answers = record.rows * record.k
        return (
            f"{answers} answers to {record.rows} prompts, {record.cut_off} cut off: {len(made)} rows in {output_dir}"
        )

    return save


def _encoder(name: str) -> Encoder:
    """Load an encoder of texts and its tokenizer."""
    folder = network_folder(name)
    with damage_refused(f"the network in {folder}"):
        network = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False)
    encode = sentence_encoder(network.to(processes().device), processor_of(name, "text"))
    encode(["."])  # what can't encode is refused before answers are sampled
    return encode
