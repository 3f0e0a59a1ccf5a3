"""How many views are enough? A student taught on stored views of each image, from one to as many as there are epochs.

Data: CIFAR-100 at 16 x 16 pixels, 30 training images of each class. The teacher is the same in all arms; what differs
is how many augmented views of an image it labels before the training, and how the labels are stored.

    python recipes/views_study.py [--dataset CIFAR100]     an hour on two cores
"""

from common.cifar import INPUTS, smaller, train_and_test
from common.defaults import ON_CPU

from hf_bkd.data.subsets import few_first, stratified_split
from hf_bkd.study import ONE_HOT, Arm, Deterministic, Splits, Study, StudyArguments, main


def small_cifar100(options: StudyArguments, seed: int) -> Splits:
    train, test = train_and_test(options)
    train, _ = stratified_split(train.shuffle(seed=0), options.max_train_samples + options.validation_size, seed=0)
    validation, train = stratified_split(train, options.validation_size, seed=0)
    test = few_first(test, options.max_test_samples)
    return Splits(*map(smaller, (train, validation, test)), INPUTS)


def stored(name: str, num_views: int, storage: str = "float16") -> Arm:
    return Arm(name, Deterministic(), num_views=num_views, storage=storage)


def study(options: StudyArguments) -> Study:
    return Study(
        name="views_study",
        arms=(
            ONE_HOT,
            Arm("deterministic", Deterministic(), online=True),
            stored("label of the plain image", 0),
            stored("1 view", 1),
            stored("4 views", 4),
            stored("16 views", 16),
            stored("4 views, float32", 4, "float32"),
            stored("4 views, uint8", 4, "uint8"),
            stored("4 views, top 10 and tail", 4, "top_k"),
        ),
        conditions={"": small_cifar100},
        note=(
            'The reference, "deterministic", asks its teacher online, at each step. "Label of the plain image": the '
            "teacher labels the image as it is and the student sees it augmented. Soft labels are float16 unless said "
            "otherwise."
        ),
    )


DEFAULTS = ON_CPU | {
    "dataset": "uoft-cs/cifar100",
    "output_dir": "runs/views_study",
    "teacher_model": "wrn_16_2_cifar",
    "student_model": "wrn_16_1_cifar",
    "num_train_epochs": 32,
    "max_train_samples": 3000,
    "max_test_samples": 4000,
    "validation_size": 1000,
    "noise_epochs": 10,
}

if __name__ == "__main__":
    main(study, DEFAULTS)
