"""What do stored soft labels of next tokens cost a student? Few entries of each distribution, beside the whole one.

Teacher: SmolLM2-135M-Instruct, or another causal language model. Students: its own first layers, which keep its
embeddings and its head, and a small Llama from scratch. Text: the language reference that Python ships for `help()`,
paragraphs that repeat left out; a fifth of its topics is held out. The teacher is asked at each step, or its labels
are stored at 16, 32 and 64 bytes a token: the largest probabilities and a bucket for all others, plain draws with
replacement (Anshumann et al. 2025), and systematic draws proportional to size, which are the library's default. Arms
that the bars are about have more seeds than the others.

    python recipes/lm_token_labels.py [--pretrained FOLDER]          fifty minutes of one core
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from common.language import (
    PYTHON,
    SMALL_SIZES,
    Remembering,
    blocks,
    chosen,
    first_layers,
    measures_of,
    number_of_draws,
    plain_draws,
    small_llama,
    texts,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, add_soft_labels
from hf_bkd.metrics import summarized_metrics, summarized_reliability
from hf_bkd.reports.claims import Check
from hf_bkd.reports.comparisons import Difference, paired_difference
from hf_bkd.reports.report import print_summary, write_report
from hf_bkd.reports.results import by_condition, interval_text, per_seed
from hf_bkd.study import StudyArguments
from hf_bkd.study.arguments import parse
from hf_bkd.study.run import quiet
from hf_bkd.study.settings import REMEDY, check_same_settings, decisive
from hf_bkd.teachers import Teacher
from hf_bkd.utils.environment import environment
from hf_bkd.utils.errors import told_in_a_sentence
from hf_bkd.utils.files import bare_name, read_json, slug, tidy, writable_folder, write_json
from hf_bkd.utils.locks import sole_user

NAME = "lm_token_labels"
BYTES = 4  # of an entry: an id of 16 bits and a probability of 16
SIZES = (4, 8, 16)  # entries of a token
TEXT, ONLINE = "text alone", "online teacher"
FIRST, SMALL = "its own first layers", "a small Llama from scratch"
SMALL_NAME = "Llama of {num_hidden_layers} layers, {hidden_size} wide".format(**SMALL_SIZES)
CLOSE = 0.2  # percent of the online teacher's NLL


class Arm(NamedTuple):
    """How a student is taught: by what is stored of each distribution, and how many entries of it."""

    storage: str = "none"
    entries: int = 0

    @property
    def name(self) -> str:
        """As the report has it."""
        words = {"top_k": "top {k} and bucket", "draws": "plain draws", "sampled": "PPS", "averaged": "average, PPS"}
        fixed = {"none": TEXT, "online": ONLINE}
        return fixed.get(self.storage) or f"{words[self.storage]}, {BYTES * self.entries} bytes".format(k=self.entries)


ALONE = (Arm(), Arm("online"))
ARMS = (*ALONE, *(Arm(storage, k) for storage in ("top_k", "draws", "sampled") for k in SIZES))
CONDITIONS = {  # the larger student, which takes longer, learns from the largest labels alone
    FIRST: (*ALONE, *(arm for arm in ARMS if arm.entries == SIZES[-1])),
    SMALL: ARMS,
}
AVERAGED = Arm("averaged", SIZES[-1])  # of a Bayesian teacher's draws, if there is one
BUCKET, SAMPLED = Arm("top_k", SIZES[-1]).name, Arm("sampled", SIZES[-1]).name
DECIDING = (ONLINE, BUCKET, SAMPLED)  # arms of the bars


@dataclass
class Arguments:
    """What the recipe can be asked for beside the training arguments."""

    dataset: str = field(default=PYTHON, metadata={"help": "Texts with a test split, name on the Hub or folder."})
    pretrained: str = field(
        default="HuggingFaceTB/SmolLM2-135M-Instruct", metadata={"help": "The teacher, name on the Hub or folder."}
    )
    seeds: str = field(default="0,1,2,3,4", metadata={"help": "Whole numbers with commas between them."})
    seeds_of_all_arms: int = field(
        default=3, metadata={"help": "With so many of them, the first, also arms that no bar is about are trained."}
    )
    length: int = field(default=128, metadata={"help": "Tokens of a row."})
    train_rows: int = field(default=96, metadata={"help": "Rows that a seed's students learn from."})
    test_rows: int = field(default=32, metadata={"help": "Rows on which all are measured."})
    adapters: str = field(
        default="",
        metadata={"help": "A saved ensemble, such as of adapters of that teacher, whose average is a further arm."},
    )
    layers: int = field(default=4, metadata={"help": "Of the teacher's, with which a student starts."})


class Labels:
    """The rows of a seed with what is stored of the teacher's distributions."""

    def __init__(self, rows: datasets.Dataset, teacher: Remembering, seed: int, averaged: Teacher | None = None):
        self.rows, self.teacher, self.seed, self.averaged = rows, teacher, seed, averaged
        self.of = cache(self._of)

    def _of(self, arm: Arm) -> datasets.Dataset:
        if arm.storage in ("none", "online"):
            return self.rows
        if arm.storage == "draws":
            number = number_of_draws(list(self._probs(self.rows.select([0, 1]))), arm.entries)
            return plain_draws(self.of(Arm("sampled", SIZES[0])), self._probs(self.rows), number, self.seed)
        teacher, storage = (self.averaged, "sampled") if arm == AVERAGED else (self.teacher, arm.storage)
        settings = {"storage": storage, "top_k": arm.entries, "seed": self.seed, "progress": False}
        return add_soft_labels(self.rows, teacher, batch_size=4, **settings)

    def _probs(self, rows: datasets.Dataset) -> Iterator[Tensor]:
        for row in rows.with_format("torch")["input_ids"]:
            yield self.teacher.predict({"input_ids": row[None]}).mean[0]


class Run:
    """The students of all seeds, trained and measured; what is finished stands in the folder."""

    def __init__(self, options: Arguments, args: DistillationTrainingArguments, folder: Path):
        self.options, self.args, self.folder = options, args, folder
        self.network = AutoModelForCausalLM.from_pretrained(options.pretrained, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(options.pretrained)
        splits = texts(options.dataset)
        self.rows = {name: blocks(splits[name], self.tokenizer, options.length) for name in ("train", "test")}
        self.test = chosen(self.rows["test"], options.test_rows, 0, "test")

    def records(self, seeds: list[int]) -> list[dict[str, Any]]:
        teacher, averaged, records = Remembering(self.network), None, []
        teacher.processing_class = self.tokenizer
        plain = DeterministicTeacher(self.network)
        own = {"deterministic": self._kept("teacher", lambda: {"metrics": measures_of(plain, self.test)})}
        if self.options.adapters:
            averaged = Teacher.from_pretrained(self.options.adapters)
            own[averaged.method] = self._kept("adapters", lambda: {"metrics": measures_of(averaged, self.test)})
        for number, seed in enumerate(seeds):
            rows = chosen(self.rows["train"], self.options.train_rows, seed, "train")
            teacher.known = {}  # of another seed's rows
            labels = Labels(rows, teacher, seed, averaged)
            for condition, arms in CONDITIONS.items():
                for arm in (*arms, *([AVERAGED] if averaged else [])):
                    if number >= self.options.seeds_of_all_arms and arm.name not in DECIDING:
                        continue
                    name = f"arms/{slug(condition)}/seed-{seed}/{slug(arm.name)}"
                    record = self._kept(name, lambda: self._record(labels, condition, arm))  # noqa: B023
                    records.append(record | {"teacher_metrics": own.get(record["teacher"], {}).get("metrics")})
                    print(f"seed {seed}, {condition}, {arm.name}: NLL {record['metrics']['nll']:.4f}", flush=True)
        order = [*CONDITIONS, *(arm.name for arm in (*ARMS, AVERAGED))]
        return sorted(records, key=lambda each: (*map(order.index, (each["condition"], each["arm"])), each["seed"]))

    def _kept(self, name: str, make: Any) -> dict[str, Any]:
        file = self.folder / f"{name}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, make())
        return read_json(file)

    def _record(self, labels: Labels, condition: str, arm: Arm) -> dict[str, Any]:
        seed, is_first = labels.seed, condition == FIRST
        method = "none" if arm.storage == "none" else (labels.averaged if arm == AVERAGED else labels.teacher).method
        network = first_layers(self.network, self.options.layers) if is_first else small_llama(self.network, seed)
        own = {"seed": seed, "online_teacher": arm.storage == "online", "teacher_seed": seed}
        own |= {"kd_lambda": 0.0} if arm.storage == "none" else {}
        rows = labels.of(arm)
        trainer = self._trainer(network, self.test, rows, labels.teacher if own["online_teacher"] else None, **own)
        started = time.perf_counter()
        trainer.train()
        return {
            "arm": arm.name,
            "condition": condition,
            "teacher": method,
            "student": f"{self.options.layers} of its layers" if is_first else SMALL_NAME,
            "seed": seed,
            "kd_lambda": trainer.args.kd_lambda,
            "teacher_temperature": 1.0,
            "student_temperature": trainer.args.student_temperature,
            "online": own["online_teacher"],
            "seconds": time.perf_counter() - started,
            **self._measures(trainer),
        }

    def _trainer(self, network: nn.Module, test: Any, train: Any = None, teacher: Any = None, **own: Any) -> Any:
        args = replace(self.args, output_dir=str(self.folder / "checkpoints"), **own)
        return DistillationTrainer(
            network, args, train_dataset=train, eval_dataset=test, processing_class=self.tokenizer, teacher=teacher
        )

    def _measures(self, trainer: DistillationTrainer) -> dict[str, Any]:
        predicted = trainer.predict(self.test)
        seen = torch.as_tensor(predicted.predictions)[torch.as_tensor(predicted.label_ids) != -100]
        return {"metrics": summarized_metrics(seen), "reliability": summarized_reliability(seen).as_json()}


def checks(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the bars of sampled labels at the greatest size, paired over seeds."""
    made = []
    for condition, arms in by_condition(results).items():
        nll, ece = ({arm: per_seed(arms[arm], metric) for arm in DECIDING} for metric in ("nll", "ece"))
        relative = {seed: 100 * value / nll[ONLINE][seed] for seed, value in nll[SAMPLED].items()}
        above = paired_difference(relative, dict.fromkeys(relative, 100.0))
        made += [
            at_most(CLOSE, above, f"{condition}: {SAMPLED}: NLL above the {ONLINE}'s, percent"),
            at_most(
                0, paired_difference(nll[SAMPLED], nll[BUCKET]), f"{condition}: {SAMPLED}: NLL less that of {BUCKET}"
            ),
            at_most(
                0, paired_difference(ece[SAMPLED], ece[BUCKET]), f"{condition}: {SAMPLED}: ECE less that of {BUCKET}"
            ),
        ]
    return [check.as_json() for check in made]


def at_most(limit: float, difference: Difference, name: str) -> Check:
    return Check(name, limit, difference.mean, 0, "at most", difference[1:3] if difference.count > 1 else ())


def note(options: Arguments, results: dict[str, Any]) -> str:
    sizes = {arm: per_seed(runs, "nll") for arm, runs in by_condition(results)[SMALL].items()}
    smaller = [Arm("sampled", entries).name for entries in SIZES[:-1]]
    more = (f"{arm} {interval_text(paired_difference(sizes[arm], sizes[SAMPLED]))}" for arm in smaller if arm in sizes)
    return (
        f"Teacher: {bare_name(options.pretrained)}. Each seed has {options.train_rows} rows of {options.length} "
        f"tokens of its own; all are measured on the same {options.test_rows} rows of held-out topics. Students with "
        "a teacher learn from it alone (lambda = 1), whatever the text says. The teacher's logits are rounded to "
        "float16 once, for all arms. Plain draws are as many as have 4, 8 or 16 distinct tokens on average; they are "
        "stored in rows as wide as the longest. From scratch, so few tokens teach little more than how frequent each "
        "is: there, read NLL, not ECE. The bars' intervals, below, and those that follow are paired over seeds, 95 % "
        f"and not corrected. Sampled labels by size: {SMALL}, NLL above that of {SAMPLED}: "
        f"{'; '.join(more)}."
    )


def main(argv: list[str] | None = None) -> None:
    with told_in_a_sentence():
        options, args = parse(DEFAULTS, sys.argv[1:] if argv is None else argv, Arguments)
        seeds, folder = StudyArguments(seeds=options.seeds).seed_list, writable_folder(args.output_dir)
        quiet()
        with sole_user(folder):
            tidy(folder)
            settings = {
                name: value for name, value in asdict(options).items() if value and not name.startswith("seeds")
            }
            settings |= decisive(args)
            check_same_settings(
                folder / "settings.json", settings, "a run", REMEDY, (folder / "arms").is_dir(), ("adapters",)
            )
            results = {"recipe": NAME, "kind": "study", "dataset": bare_name(options.dataset), "reference": ONLINE}
            results |= {"measure": "nll", "environment": environment(args.device, args.world_size)}
            results["arms"] = Run(options, args, folder).records(seeds)
            results["planned"] = len(results["arms"])
            results |= {"note": note(options, results), "checks": checks(results)}
            write_json(folder / "results.json", results)
            report = write_report(results, folder)
            print_summary(results)
            print(f"report: {report}")


DEFAULTS = {
    "output_dir": f"runs/{NAME}",
    "kd_lambda": 1.0,
    "num_train_epochs": 1,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,  # of the training
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 8,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
}

if __name__ == "__main__":
    main()
