"""The arguments of a distillation: `transformers.TrainingArguments` and a few numbers more."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..data.views import ORDERS
from ..distances import DISTANCES
from ..likelihoods import LIKELIHOODS
from ..losses import TEMPERATURE_SCALES
from ..metrics import LOW_IS_BEST
from ..targets import TEACHER_WEIGHTS
from ..utils.checks import (
    check_between,
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_share,
)
from ..utils.errors import UserError

CHOICES = {
    "temperature_scale": TEMPERATURE_SCALES,
    "lambda_schedule": ("fixed", "adaptive", "bias_aware"),
    "teacher_weights": TEACHER_WEIGHTS,
    "combine": ("average", "mixture"),
    "view_order": ORDERS,
    "distance": DISTANCES,
    "problem_type": (None, *LIKELIHOODS),
}


# of the Trainer's own, which takes any number
NOT_NEGATIVE = ("learning_rate", "num_train_epochs", "weight_decay", "max_grad_norm", "adam_epsilon")
WEIGHTS = ("dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma")  # of the distances' terms


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """The arguments of :class:`~hf_bkd.DistillationTrainer`.

    loss = (1 - kd_lambda) * CE(y, softmax(z)) + kd_lambda * scale * KL(target, softmax(z / student_temperature)),
    where the target is the stored ``teacher_probs`` at ``teacher_temperature`` (arXiv 2601.01484).

    Args:
        kd_lambda: weight in [0, 2] of the distillation term; 0 is plain training, 1 never reads the labels. Above 1
            the labels are subtracted, which helps a teacher that follows 30 to 50 % of wrong labels (Das and Sanghavi
            2023); the loss then has no lower bound for an example whose teacher gives its label less than 1 - 1 /
            ``kd_lambda``, and the share of those is logged as ``unbounded``.
        lambda_schedule: ``"fixed"``; ``"adaptive"``: lambda(x) is ``kd_lambda``, at most 1, times a factor that falls
            with the variance of the teacher's draws for x, see :func:`~hf_bkd.targets.adaptive_lambda` (needs stored
            ``teacher_variance``); or ``"bias_aware"``: times one that falls with the error of cross-fitted soft labels
            that are as sure as that of x, see :func:`~hf_bkd.targets.bias_aware_lambda`. Its mean is logged as
            ``kd_lambda``.
        teacher_weights: of several teachers' labels: ``"equal"``, ``"entropy"`` (a surer teacher counts more, example
            by example; arXiv 2605.27967) or ``"inverse_variance"`` (of each teacher's mean, example by example; needs
            ``teacher_variance``).
        combine: ``"average"`` of the teachers, or ``"mixture"``, arXiv 2605.27967's prior, under which the teachers
            that the student agrees with count more; see :func:`~hf_bkd.targets.mixture_responsibilities`.
        prior_strength: s > 0 of that mixture, its lambda. Its energy with the released code's factor c, and labels
            of weight one, is ``kd_lambda`` = c s / (1 + c s) here.
        teacher_temperature: T_t > 0 of the target. ``None`` keeps that of the stored labels. Labels stored at another
            temperature are converted to this one by p^(T_stored/T_t), renormalized; refused if T_stored is not 1 and
            their teacher's rule was ``"per_sample"``, and for a higher one unless they are stored as float32.
        student_temperature: T_s > 0 of the student in the distillation term.
        temperature_scale: ``"product"`` (T_t * T_s, arXiv 2601.01484), ``"squared"`` (T_s^2, Hinton et al. 2015) or
            ``"none"``.
        distance: of the student from its target: ``"kl"``, or one that reshapes it: ``"dkd"`` (Zhao et al. 2022; reads
            the labels, also with ``kd_lambda=1``), ``"dist"`` (Huang et al. 2022; also compares the examples of one
            batch with each other, so that accumulated batches are another loss than a large one) or
            ``"standardized"`` (Sun et al. 2024; T_t has no effect on it), see `distances`. Their authors train with
            ``temperature_scale="squared"`` and temperatures of 4, 1 and 2. ``"dirichlet"`` (Malinin et al. 2020) makes
            exp(logits) the concentrations of a Dirichlet distribution and maximizes the likelihood of the teacher's
            draws, by the labels' ``teacher_mean_log_probs`` or else their variance: see `dirichlet` and
            :class:`~hf_bkd.DirichletStudent`. T_t is that of the draws, T_s is 1 and ``temperature_scale`` becomes
            ``"none"``. For one of C
            classes only.
        dkd_alpha, dkd_beta: weights of ``"dkd"``'s target-class and non-target-class terms.
        dist_beta, dist_gamma: weights of ``"dist"``'s relations between classes and between examples.
        problem_type: what the student predicts, in transformers' words: ``"single_label_classification"``,
            ``"multi_label_classification"`` or ``"regression"``; ``None`` for what the student's config, the soft
            labels or the labels say.
        standardize_labels: learn a regression's numbers in units of their standard deviation, around their mean, and
            answer in their own, see `training.trainer_standardizing`; the logged ``loss`` is in units of their
            variance where it is a squared error. ``False`` learns them as they are.
        noise_epochs: over how many of the last evaluations the convergence noise is taken; a run with fewer than
            twice as many uses its last half.
        dropout_masks: how often each batch is passed in a step, with a new mask of the student's dropout each time;
            the loss is the mean of the passes, and a step takes as many times as long.
        kl_warmup: share in [0, 1] of the training during which a variational network's KL divergence has no weight.
        kl_annealing: share in [0, 1] of the training, after that, over which its weight rises linearly to 1. The
            defaults are those of arXiv 2601.01484's code: 100 epochs and then 50, of 200.
        view_order: of labels of V views: ``"cycle"`` shows view (epoch mod V), ``"shuffle"`` all V in a new order
            every V epochs.
        online_teacher: ask the trainer's ``teacher`` for the targets at each step, instead of reading stored labels.
        teacher_samples, teacher_seed: S and the seed of an online teacher's draws.
        allow_unrecorded_labels: train on soft labels that don't say what made them, such as ones added by hand.
        license: the Hub's name of the license that the card gives the student, such as ``"mit"``; none if not given.

    Raises:
        UserError: a number outside its range, an unknown choice, or one of stored labels with an online teacher.
    """

    kd_lambda: float = field(
        default=1.0, metadata={"help": "Weight in [0, 2] of the distillation term: (1 - lambda) CE + lambda scale KL."}
    )
    lambda_schedule: str = field(
        default="fixed",
        metadata={
            "help": "fixed, or lambda by example: adaptive, by the draws' variance, or bias_aware, by the errors of "
            "cross-fitted labels."
        },
    )
    teacher_weights: str = field(
        default="equal", metadata={"help": "Of several teachers: equal, entropy or inverse_variance."}
    )
    combine: str = field(default="average", metadata={"help": "Several teachers: their average, or a mixture prior."})
    prior_strength: float = field(default=5.0, metadata={"help": "Strength > 0 of each teacher's part in a mixture."})
    teacher_temperature: float | None = field(
        default=None, metadata={"help": "Temperature > 0 of the target; that of the stored labels if not given."}
    )
    student_temperature: float = field(
        default=1.0, metadata={"help": "Temperature > 0 of the student in the distillation term."}
    )
    temperature_scale: str = field(
        default="product", metadata={"help": "Factor on the KL term: product (T_t T_s), squared (T_s^2) or none."}
    )
    distance: str = field(
        default="kl", metadata={"help": "Of student and target: kl, dkd, dist, standardized or dirichlet (see docs)."}
    )
    dkd_alpha: float = field(default=1.0, metadata={"help": "Weight of dkd's term of the label's class."})
    dkd_beta: float = field(default=8.0, metadata={"help": "Weight of dkd's term of the other classes."})
    dist_beta: float = field(default=1.0, metadata={"help": "Weight of dist's relation between classes."})
    dist_gamma: float = field(default=1.0, metadata={"help": "Weight of dist's relation between examples."})
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "single_label_classification, multi_label_classification or regression; what the student, the "
            "soft labels or the labels say if not given."
        },
    )
    standardize_labels: bool = field(
        default=True, metadata={"help": "Learn a regression's numbers in units of their standard deviation."}
    )
    noise_epochs: int = field(
        default=50, metadata={"help": "Number of last evaluations over which convergence noise is taken."}
    )

    dropout_masks: int = field(
        default=1, metadata={"help": "Passes of each batch in a step, with a new mask of the dropout each."}
    )
    kl_warmup: float = field(
        default=0.5, metadata={"help": "Share of the training before a variational network's KL has any weight."}
    )
    kl_annealing: float = field(
        default=0.25, metadata={"help": "Share of the training, after that, over which its weight rises to 1."}
    )

    view_order: str = field(
        default="cycle", metadata={"help": "Which view an epoch shows: cycle or shuffle (each V epochs anew)."}
    )
    online_teacher: bool = field(
        default=False, metadata={"help": "Ask the teacher for targets at each step, instead of reading stored labels."}
    )
    teacher_samples: int = field(default=10, metadata={"help": "Draws of an online teacher."})
    teacher_seed: int = field(default=0, metadata={"help": "Seed of an online teacher's draws."})
    allow_unrecorded_labels: bool = field(
        default=False, metadata={"help": "Train on soft labels that don't say what made them."}
    )
    license: str | None = field(
        default=None, metadata={"help": "License that the card names, such as mit; none if not given."}
    )

    def __post_init__(self):
        check_not_negative(**{name: getattr(self, name) for name in (*NOT_NEGATIVE, *WEIGHTS)})
        metric = self.metric_for_best_model or ""
        if self.greater_is_better is None and f"_{metric}".endswith(tuple(f"_{each}" for each in LOW_IS_BEST)):
            self.greater_is_better = False
        super().__post_init__()
        check_between(0, 2, kd_lambda=self.kd_lambda)
        check_share(kl_warmup=self.kl_warmup, kl_annealing=self.kl_annealing)
        check_positive(student_temperature=self.student_temperature, prior_strength=self.prior_strength)
        if self.teacher_temperature is not None:
            check_positive(teacher_temperature=self.teacher_temperature)
        for name, known in CHOICES.items():
            check_choice(known, **{name: getattr(self, name)})
        if self.lambda_schedule != "fixed" and self.online_teacher:
            raise UserError(
                f"lambda_schedule={self.lambda_schedule!r} reads all soft labels before the first step, and an online "
                "teacher stores none: label with add_soft_labels, or omit online_teacher"
            )
        if self.online_teacher and (self.combine, self.teacher_weights) != ("average", "equal"):
            raise UserError(
                "combine and teacher_weights are for stored labels: an online MultiTeacher has weights of its own"
            )
        self._check_derivation()
        if self.distance == "dirichlet" and self.student_temperature != 1:
            raise UserError(
                "distance='dirichlet' is the likelihood of the teacher's draws, and student_temperature is "
                f"{self.student_temperature:g}: leave it at 1 (the teacher may draw at a temperature, with "
                "tempering='per_sample')"
            )
        if self.distance == "dirichlet":
            self.temperature_scale = "none"
        if self.distance == "dist" and self.per_device_train_batch_size < 2:
            raise UserError(
                "distance='dist' compares the examples of a batch, and per_device_train_batch_size is 1: pass more, "
                "or another distance"
            )
        check_count(teacher_samples=self.teacher_samples, dropout_masks=self.dropout_masks)
        check_count(2, noise_epochs=self.noise_epochs)

    def _check_derivation(self) -> None:
        """Raise a UserError for settings that are derived for each other's defaults alone."""
        by_example, mixture = self.lambda_schedule != "fixed", self.combine == "mixture"
        asked = {
            "lambda_schedule": by_example,
            "combine": mixture,
            "kd_lambda": self.kd_lambda > 1,
        }
        for name in (name for name, value in asked.items() if value and self.distance != "kl"):
            raise UserError(
                f"{name}={getattr(self, name)!r} is derived for the divergence itself, and distance is "
                f"{self.distance!r}: omit one of them"
            )
        if self.kd_lambda > 1 and (by_example or mixture or self.label_smoothing_factor):
            name = "lambda_schedule" if by_example else "combine" if mixture else "label_smoothing_factor"
            raise UserError(
                f"{name}={getattr(self, name)!r} needs a kd_lambda of at most 1, and it is {self.kd_lambda:g}: omit "
                "one of them"
            )
