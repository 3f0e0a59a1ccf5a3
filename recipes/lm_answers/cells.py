"""Teachers and students of a world's questions, one folder each: what is finished is read, the rest is trained."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import datasets
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    Teacher,
    add_soft_labels,
    aggregate_responses,
    generate_responses,
    tokenized,
)
from hf_bkd.reports.claims import ClaimArguments
from hf_bkd.utils.errors import UserError
from hf_bkd.utils.files import read_json, temporary_folder, whole_folder, write_json

from .world import DEGREES, World, tokenizer

MEMBERS = 3  # of the Bayesian teacher, an ensemble
HUMAN_ANSWERS = 4  # drawn from the truth, to each of the questions that the teacher learns from
MOST = 10  # answers of the teacher to a question that a student may learn from
RESULTS, PROBS = "answers.json", "probs.safetensors"


@dataclass
class ResponseArguments(ClaimArguments):
    seeds: str = field(default="0,1,2,3", metadata={"help": "Worlds, each with teachers and students of its own."})
    students: int = field(default=6, metadata={"help": "Of each kind, n >= 3."})
    taught: int = field(default=560, metadata={"help": "Questions that the teacher learns from, of 1,200."})
    questions: int = field(default=320, metadata={"help": "Others, which the students learn from its answers to."})
    test: int = field(default=160, metadata={"help": "Others still, which students are asked."})
    teacher_steps: int = field(default=800, metadata={"help": "Of 64 answers each."})
    student_steps: int = field(default=120, metadata={"help": "Of 128 answers each, whatever the students learn."})
    answers: int = field(default=10, metadata={"help": "Of each student to each question of the test, k >= 2."})


class Kind(NamedTuple):
    """What students learn, and the one source of randomness in which those of a kind differ.

    supervision: a method of ``aggregate_responses``, or ``"soft"``: the distributions of the tokens of one answer.
    k: answers, or stored entries for each token. vary: ``"teacher"``, ``"initialization"`` or ``"order"``.
    """

    supervision: str
    k: int
    vary: str = "teacher"
    teacher: str = "single"

    @property
    def folder(self) -> str:
        return "-".join(map(str, self))


KINDS = [
    *(Kind("all", k) for k in (1, 3, 5, 10)),
    *(Kind("mean", k) for k in (3, 5, 10)),
    *(Kind("inverse_variance", k) for k in (3, 5)),
    Kind("oracle", 5),
    *(Kind("soft", entries) for entries in (4, 9, 16)),
    *(Kind(*each, vary) for vary in ("initialization", "order") for each in (("all", 1), ("all", 5), ("soft", 9))),
    Kind("all", 5, teacher="ensemble"),
    Kind("soft", 9, teacher="ensemble"),
]


class Answered(NamedTuple):
    """What one student says of the test: probabilities [N, 33], the last of all other answers, and k texts each."""

    probs: Tensor
    answers: list[list[str]]


class Cells:
    """All teachers and students of one world."""

    def __init__(self, options: ResponseArguments, seed: int, folder: Path):
        self.options, self.seed, self.folder = options, seed, folder / f"seed-{seed}"
        self.world, self.tokenizer = World(seed), tokenizer()
        order = torch.randperm(len(self.world.questions), generator=torch.Generator().manual_seed(seed))
        sizes = (options.taught, options.questions, options.test)
        if sum(sizes) > len(order):
            raise UserError(f"there are {len(order)} questions, and {sum(sizes)} are asked for: ask fewer")
        self.taught, self.learned, self.test = (part.tolist() for part in order[: sum(sizes)].split(sizes))

    # teachers

    @cached_property
    def members(self) -> list[LlamaForCausalLM]:
        return [self._member(number) for number in range(MEMBERS)]

    def teacher(self, name: str) -> Teacher:
        """Return ``"single"``, the first network, or ``"ensemble"``, all of them."""
        teachers = [DeterministicTeacher(network) for network in self.members]
        for each in teachers:
            each.processing_class = self.tokenizer
        return teachers[0] if name == "single" else EnsembleTeacher(teachers)

    def _member(self, number: int) -> LlamaForCausalLM:
        """Return a network of two layers, which saw answers of its own."""
        place = self.folder / f"teacher-{number}"
        if not place.exists():
            generator = torch.Generator().manual_seed(1000 * self.seed + number)
            probs = self.world.probs[self.taught]
            drawn = torch.multinomial(probs, HUMAN_ANSWERS, replacement=True, generator=generator)
            rows = [
                {"prompt": self.world.questions[i], "completion": f" {self.world.answers[i][place]}"}
                for i, own in zip(self.taught, drawn.tolist(), strict=True)
                for place in own
            ]
            network = self._trained(
                self.network(2, 64, 1000 * self.seed + number), datasets.Dataset.from_list(rows), 0.0, 64,
                self.options.teacher_steps, number,
            )  # fmt: skip
            with whole_folder(place, last="config.json") as folder:
                network.save_pretrained(folder)
        return LlamaForCausalLM.from_pretrained(place).eval()

    @cached_property
    def questions(self) -> datasets.Dataset:
        return self.asked(self.learned)

    def responses(self, teacher: str, seed: int = 0) -> datasets.Dataset:
        """All answers of a teacher, ``MOST`` for each student."""
        return generate_responses(
            self.questions, self.teacher(teacher), MOST * self.options.students, max_new_tokens=4, batch_size=1024,
            seed=seed, folder=self.folder / f"responses-{teacher}-{seed}", progress=False,
        )  # fmt: skip

    # students

    def students(self, kind: Kind) -> list[Answered]:
        return [self._student(kind, number) for number in range(self.options.students)]

    def _student(self, kind: Kind, number: int) -> Answered:
        place = self.folder / kind.folder / str(number)
        if not place.exists():
            began, share = time.process_time(), number if kind.vary == "teacher" else 0
            rows = self._supervision(kind, share)
            start, order = (number if kind.vary == source else 0 for source in ("initialization", "order"))
            network = self._trained(
                self.network(1, 48, 7 + 100 * start), rows, float(kind.supervision == "soft"), 128,
                self.options.student_steps, 1 + order,
            )  # fmt: skip
            answers = self._answers(network, self.asked(self.test), number)
            with whole_folder(place, last=RESULTS) as folder:
                network.save_pretrained(folder)
                save_file({"probs": answer_probs(network, self.world, self.test, self.tokenizer)}, folder / PROBS)
                write_json(folder / RESULTS, {"answers": answers["teacher_responses"][:]})
            print(f"seed {self.seed} {kind.folder} {number}: {time.process_time() - began:.1f} s", flush=True)
        return Answered(load_file(place / PROBS)["probs"].double(), read_json(place / RESULTS)["answers"])

    def _supervision(self, kind: Kind, share: int) -> datasets.Dataset:
        """Make the rows that a student learns: of its own share of the teacher's answers, and of no other."""
        responses = self.answered(kind.teacher)
        own = range(MOST * share, MOST * share + (1 if kind.supervision == "soft" else kind.k))
        if kind.supervision == "soft":
            rows = aggregate_responses(responses, "single", responses=own)
            return add_soft_labels(
                rows, self.teacher(kind.teacher), num_samples=MEMBERS, top_k=kind.k, seed=share, progress=False
            )
        more = {} if kind.supervision in ("single", "all") else {"encoder": bag_of_words}
        if kind.supervision == "inverse_variance":  # an earlier student, which learned from another share of answers
            other = (share + 1) % self.options.students
            self._student(Kind("all", kind.k), other)
            network = LlamaForCausalLM.from_pretrained(self.folder / Kind("all", kind.k).folder / str(other))
            more["student"] = self._answers(network, self.questions, other, kind.k)
        if kind.supervision == "oracle":
            more["oracle"] = self.answered(kind.teacher, 1)
        return aggregate_responses(responses, kind.supervision, responses=own, **more)

    def answered(self, teacher: str, seed: int = 0) -> datasets.Dataset:
        if not hasattr(self, "_drawn"):
            self._drawn: dict[tuple[str, int], datasets.Dataset] = {}
        if (teacher, seed) not in self._drawn:
            self._drawn[teacher, seed] = self.responses(teacher, seed)
        return self._drawn[teacher, seed]

    def _answers(self, network: nn.Module, asked: datasets.Dataset, number: int, k: int = 0) -> datasets.Dataset:
        return generate_responses(
            asked, network, k or self.options.answers, processing_class=self.tokenizer, max_new_tokens=4,
            batch_size=4096, seed=100 + number, shard_rows=4096, progress=False,
        )  # fmt: skip

    def network(self, layers: int, width: int, seed: int) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=len(self.tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=4, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=None,
            initializer_range=0.1,
            pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.tokenizer.eos_token_id,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config)

    def _trained(
        self, network: nn.Module, rows: datasets.Dataset, kd_lambda: float, batch_size: int, steps: int, order: int
    ) -> LlamaForCausalLM:
        rows = rows if "input_ids" in rows.column_names else tokenized(rows, self.tokenizer)
        with temporary_folder() as folder:
            args = DistillationTrainingArguments(
                str(folder), kd_lambda=kd_lambda, max_steps=steps, per_device_train_batch_size=batch_size, seed=order,
                learning_rate=0.01, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
                use_cpu=True,
            )  # fmt: skip
            trainer = DistillationTrainer(network, args, train_dataset=rows, processing_class=self.tokenizer)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return network.eval()

    def asked(self, numbers: list[int]) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"prompt": [self.world.questions[i] for i in numbers]})


@torch.no_grad()
def answer_probs(network: nn.Module, world: World, numbers: list[int], words: object) -> Tensor:
    """Compute a network's probability of each of 32 answers to each question, and of all others, [N, 33]."""
    end = [words.eos_token_id]
    rows = [words(f"{world.questions[i]} {answer}")["input_ids"] + end for i in numbers for answer in world.answers[i]]
    tokens = torch.tensor(rows)
    predicted = network(input_ids=tokens).logits.log_softmax(dim=-1)[:, -4:-1]
    probs = predicted.gather(2, tokens[:, -3:, None]).sum(dim=(1, 2)).double().exp().reshape(len(numbers), -1)
    return torch.cat([probs, (1 - probs.sum(dim=1, keepdim=True)).clamp_min(0)], dim=1)


def bag_of_words(texts: list[str]) -> Tensor:
    """Embed texts as the words that they hold, of length 1; what the answers of a world may say is all known."""
    places = {word: place for place, word in enumerate(known_words())}
    made = torch.zeros(len(texts), len(places) + 1, dtype=torch.float64)
    for row, text in zip(made, texts, strict=True):
        for word in text.split():
            row[places.get(word, len(places))] += 1
    return nn.functional.normalize(made, dim=-1)


def known_words() -> Iterator[str]:
    from .world import HABITS

    yield from DEGREES
    for nouns in HABITS.values():
        yield from nouns


def check_settings(options: ResponseArguments, folder: Path) -> None:
    """Refuse to go on from students that were made with other settings."""
    own = {name: value for name, value in asdict(options).items() if name not in ("output_dir", "seed", "seeds")}
    place = folder / "settings.json"
    if place.exists() and read_json(place) != own:
        raise UserError(f"{folder} holds students of other settings, {read_json(place)}: pass another --output_dir")
    write_json(place, own)
