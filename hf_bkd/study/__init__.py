"""Studies: a list of arms, run over conditions and seeds by one engine, reported in one form."""

from .arguments import StudyArguments
from .arms import (
    BAYES,
    CONTROLS,
    CROSS_FITTED,
    DETERMINISTIC,
    ENSEMBLE,
    LABEL_SMOOTHING,
    LAPLACE,
    ONE_HOT,
    SCALED,
    TUNED,
    VARIATIONAL,
    WHOLE_NETWORK,
    Arm,
    Splits,
    Study,
    combined,
)
from .command import main
from .inputs import Images, Texts, Vectors

__all__ = [
    "BAYES",
    "CONTROLS",
    "CROSS_FITTED",
    "DETERMINISTIC",
    "ENSEMBLE",
    "LABEL_SMOOTHING",
    "LAPLACE",
    "ONE_HOT",
    "SCALED",
    "TUNED",
    "VARIATIONAL",
    "WHOLE_NETWORK",
    "Arm",
    "Images",
    "Splits",
    "Study",
    "StudyArguments",
    "Texts",
    "Vectors",
    "combined",
    "main",
]
