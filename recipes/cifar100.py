"""What the three CIFAR-100 recipes share: the data, the arguments of arXiv 2601.01484, and the controls.

Where its code is followed: CIFAR stem, reflect-padded crop and flip, Adam at 1e-3 without weight decay, batches of
about 100, 200 epochs, S = 10. Where it isn't: a cosine schedule, because the Trainer has no multi-step one; a
validation split, because theirs is the test split; and labels of 16 augmented views of each image, which the student
sees in turn (in recipes/views_study.py 4 were as good as a teacher that is asked at each step).
"""

from hf_bkd.data.columns import as_image_classification
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, stratified_split
from hf_bkd.models.cifar_resnet import CIFAR100_MEAN, CIFAR100_STD
from hf_bkd.study import CONTROLS, Arm, Images, Splits, Study, StudyArguments, main


def cifar100(options: StudyArguments, seed: int) -> Splits:
    splits = load_splits(options.dataset, needed=("train", "test"))
    # one split for all seeds: a teacher from another run has not seen the images that its temperature is chosen on
    train = few_first(as_image_classification(splits["train"]).shuffle(seed=0), options.max_train_samples)
    test = few_first(as_image_classification(splits["test"]), options.max_test_samples)
    validation, train = stratified_split(train, options.validation_size or len(train) // 10, seed=0)
    return Splits(train, validation, test, Images(CIFAR100_MEAN, CIFAR100_STD, augment=True))


DEFAULTS = {
    "dataset": "uoft-cs/cifar100",
    "teacher_model": "resnet50_cifar",
    "student_model": "resnet18_cifar",
    "num_train_epochs": 200,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 500,
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_strategy": "epoch",
}


def run(name: str, *arms: Arm) -> None:
    """Run a recipe's arms beside the controls."""
    study = Study(name, (*CONTROLS, *arms), {"": cifar100}, views=16)
    main(study, DEFAULTS | {"output_dir": f"runs/{name}"})
