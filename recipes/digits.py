"""Is a Bayesian teacher worth it? Real images, a few minutes on two cores, every control beside it.

Data: scikit-learn's handwritten digits (1,797 images of 8 x 8). Two conditions: 30 % of the training and validation
labels replaced at random, where the exact class probabilities are known; and 10 clean images per class.

    python recipes/digits.py --output_dir runs/digits          under five minutes
    python recipes/digits.py --output_dir runs/digits --full   more seeds, epochs, members and folds
"""

from dataclasses import dataclass, field, replace

from common.digits import DEFAULTS, digits_study

from hf_bkd.study import BAYES, CONTROLS, CROSS_FITTED, LAPLACE, VARIATIONAL, Study, StudyArguments, main


@dataclass
class Arguments(StudyArguments):
    full: bool = field(default=False, metadata={"help": "More seeds, epochs, members and folds."})


def study(options: Arguments) -> Study:
    cross_fitted = replace(CROSS_FITTED, folds=5 if options.full else 3)
    return digits_study("digits", (*CONTROLS, LAPLACE, VARIATIONAL, cross_fitted, BAYES))


def defaults(options: Arguments) -> dict:
    # draws from a last layer cost next to nothing, and S = 10 of a wide posterior are noise
    small = DEFAULTS | {"output_dir": "runs/digits", "num_samples": 100}
    large = {"seeds": "0,1,2,3,4,5,6,7,8,9", "num_train_epochs": 80, "ensemble_size": 5}
    return small | (large if options.full else {})


if __name__ == "__main__":
    main(study, defaults, arguments=Arguments)
