"""Which teacher knows best what it doesn't know? Every posterior as a classifier, before any student is taught.

Data: scikit-learn's handwritten digits, 20 of each class and all of them with 30 % of the labels replaced at random,
and the first 20 classes of CIFAR-100 in 16 x 16 pixels. Out-of-distribution images, of no class that the teachers
know: CIFAR-10's test split.

    python recipes/teachers_comparison.py [--dataset CIFAR100] [--ood_dataset CIFAR10]     90 minutes on two cores
"""

from common.cifar import INPUTS as CIFAR_INPUTS
from common.cifar import first_classes, ood, smaller
from common.defaults import ON_CPU
from common.digits import INPUTS, NOISE, all_digits

from hf_bkd.data.subsets import few_first, few_shot, stratified_split, with_label_noise
from hf_bkd.study import (
    DETERMINISTIC,
    ENSEMBLE,
    LAPLACE,
    SWA,
    SWAG,
    VARIATIONAL,
    WHOLE_NETWORK,
    Arm,
    Ensemble,
    IVONVariational,
    Laplace,
    MCDropout,
    Splits,
    Study,
    StudyArguments,
    Variational,
    main,
)

PER_CLASS = 20
FEW, NOISY, CIFAR = "digits, 20 of each class", "digits, 30 % label noise", "CIFAR-100, 20 classes"
FILTER_RATE = 0.05
SWAG_CHOSEN = SWAG(start=0.5, rate=1.0, draws=30, batches=1)


def digits(options: StudyArguments, seed: int) -> Splits:
    test, rest = stratified_split(all_digits(), 500, seed)
    validation, train = stratified_split(rest, 300, seed)
    small = ood(options).map(lambda row: {"image": row["image"].convert("L").resize((8, 8))})
    return Splits(few_first(train, options.max_train_samples), validation, test, INPUTS, ood=small)


def few_digits(options: StudyArguments, seed: int) -> Splits:
    splits = digits(options, seed)
    splits.train = few_shot(splits.train, PER_CLASS, seed)
    return splits


def noisy_digits(options: StudyArguments, seed: int) -> Splits:
    splits = digits(options, seed)
    for number, name in enumerate(("train", "validation", "test")):
        setattr(splits, name, with_label_noise(getattr(splits, name), NOISE, 3 * seed + number)[0])
    return splits


def cifar20(options: StudyArguments, seed: int) -> Splits:
    return Splits(*map(smaller, first_classes(options)), CIFAR_INPUTS, ood=smaller(ood(options)))


def study(options: StudyArguments) -> Study:
    return Study(
        name="teachers_comparison",
        arms=(
            DETERMINISTIC,
            ENSEMBLE,
            Arm("SWA", SWA(of=SWAG_CHOSEN)),
            Arm("SWAG", SWAG_CHOSEN),
            Arm("MultiSWAG", Ensemble(of=SWAG_CHOSEN)),
            LAPLACE,
            Arm("Laplace, diagonal", Laplace(structure="diag")),
            Arm("Laplace, marginal likelihood", Laplace(prior_precision="marginal_likelihood")),
            Arm("MC dropout", MCDropout(drop_rate=0.3)),
            Arm("MC dropout, filter-wise", MCDropout(drop_rate=FILTER_RATE, filter_wise=True)),
            Arm("MC dropout, filter-wise, 4 masks", MCDropout(drop_rate=FILTER_RATE, filter_wise=True, masks=4)),
            VARIATIONAL,
            Arm("variational head, low rank", Variational(rank=4)),
            Arm("variational, IVON", IVONVariational(lr=0.5, initial_std=0.045, betas=(0.9, 0.9995))),
            WHOLE_NETWORK,
        ),
        conditions={CIFAR: cifar20, FEW: few_digits, NOISY: noisy_digits},
        students=False,
        epochs={FEW: 2},
        note=(
            "Laplace: last layer, Kronecker factors, probit link and prior precision by validation NLL unless said "
            "otherwise. SWAG: its schedule was chosen on the validation split of CIFAR-100 with another seed; SWA is "
            "its mean, MultiSWAG an ensemble of it. MC dropout: of the last features, or of whole channels before "
            "each convolution, with one mask of each example in a step or with four passes of it. Under label noise "
            "the test labels are as noisy as the others, so that NLL is about the probabilities that a student should "
            "learn. All draw S times; the ensembles have their members. Out-of-distribution images are CIFAR-10's, "
            "made gray and 8 x 8 for the digits."
        ),
    )


DEFAULTS = ON_CPU | {
    "dataset": "uoft-cs/cifar100",
    "ood_dataset": "uoft-cs/cifar10",
    "output_dir": "runs/teachers_comparison",
    "seeds": "0,1,2,3,4",
    "teacher_model": "wrn_16_1_cifar",
    "num_train_epochs": 30,
    "num_samples": 30,
    "max_train_samples": 2000,
    "max_test_samples": 2000,
    "validation_size": 1000,
}

if __name__ == "__main__":
    main(study, DEFAULTS)
