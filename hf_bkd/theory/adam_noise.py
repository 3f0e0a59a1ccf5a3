"""Where Adam comes to rest with a constant step: by the standard deviation of its gradients, not by their variance.

Derived here; arXiv 2601.01484 proves its theorems for SGD, and experiments with Adam. Near a minimum Adam's mean of
squared gradients is their variance there, v = diag C / B, so that its step is SGD's with the preconditioner
D = 1 / (sqrt(v) + eps). In the coordinates D^(-1/2) theta that is plain SGD, whose floor is alpha / 4 times the trace
of the noise, D^(1/2) C D^(1/2) / B. The averaging of gradients (beta_1) changes none of it to first order in alpha.

The noise's scale s enters as s / sqrt(s): a teacher whose draws have a ninth of the label's variance lowers the floor
to a third, where SGD's falls to a ninth, and so do S draws, and batches of B. Exact probabilities have no noise, and
the formula says 0: what remains is of second order. Without eps Adam does not know the gradients' scale, so a student
at c times the distance with c times the step moves alike; the floor of exact probabilities thus goes with alpha^2,
where that of SGD is 0.
"""

from torch import Tensor

from ..utils.checks import check_count, check_not_negative, check_positive


def adam_floor(variances: Tensor, learning_rate: float, batch_size: int = 1, eps: float = 1e-8) -> float:
    """Return the stationary risk of Adam above the minimum, alpha / 4 sum_i v_i / (sqrt(v_i) + eps), in nats.

    Exact to first order in the step, where beta_2 averages over so many steps that v hardly fluctuates.

    Args:
        variances: B v [p], of each parameter's gradient of one example at the minimum: the diagonal of
            :func:`hf_bkd.theory.parameter_covariance`, whose trace is SGD's sigma*.
        learning_rate: alpha > 0.
        batch_size: B >= 1.
        eps: of Adam, > 0.

    Raises:
        UserError: a number out of range.
    """
    check_not_negative(variances=variances)
    check_positive(learning_rate=learning_rate, eps=eps)
    check_count(batch_size=batch_size)
    averaged = variances / batch_size
    return (averaged / (averaged.sqrt() + eps)).sum().item() * learning_rate / 4
