"""Is a Bayesian teacher worth it? Real images, a few minutes on two cores, every control beside it.

Data: scikit-learn's handwritten digits (1,797 images of 8 x 8). Two conditions: 30 % of the training and validation
labels replaced at random, where the exact class probabilities are known; and 10 clean images per class.

    python recipes/digits.py --output_dir runs/digits          ten seeds, four minutes on two idle cores
    python recipes/digits.py --output_dir runs/digits --full   more seeds, epochs, members and folds
"""

from dataclasses import dataclass, field, replace

from common.digits import DEFAULTS, digits_study

from hf_bkd.study import (
    BAYES,
    CONTROLS,
    CROSS_FITTED,
    DETERMINISTIC,
    LAPLACE,
    VARIATIONAL,
    Study,
    StudyArguments,
    main,
)


@dataclass
class Arguments(StudyArguments):
    full: bool = field(default=False, metadata={"help": "More seeds, epochs, members and folds."})


def study(options: Arguments) -> Study:
    # one network a fold costs a third of an ensemble, and differs from the deterministic teacher in the folds alone
    single = replace(DETERMINISTIC, name="deterministic, cross-fitted", folds=3)
    cross_fitted = replace(CROSS_FITTED, folds=5) if options.full else single
    return digits_study("digits", (*CONTROLS, LAPLACE, VARIATIONAL, cross_fitted, BAYES))


def defaults(options: Arguments) -> dict:
    # draws from a last layer cost next to nothing, and S = 10 of a wide posterior are noise
    shared = DEFAULTS | {"output_dir": "runs/digits", "num_samples": 100}
    # few and large steps: as many networks again can be trained in the same time
    small = {"num_train_epochs": 20, "per_device_train_batch_size": 128, "learning_rate": 1e-2}
    large = {"num_train_epochs": 80, "ensemble_size": 5}
    return shared | {"seeds": seeds(20 if options.full else 10)} | (large if options.full else small)


def seeds(number: int) -> str:
    return ",".join(map(str, range(number)))


if __name__ == "__main__":
    main(study, defaults, arguments=Arguments)
