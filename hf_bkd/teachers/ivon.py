"""Training a Gaussian over all weights of a network at the cost of Adam: the optimizer IVON."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.calling import split
from ..models.heads import num_classes_of
from ..models.posterior_state import PRECISION
from ..models.token_networks import classifies_tokens, predicts_next_tokens
from ..utils.checks import check_positive
from ..utils.errors import UserError
from .examples import likelihood_by
from .specification import FitContext, TeacherSpec, option
from .variational import VariationalTeacher

LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda lr: 0 <= lr < math.inf, "finite and at least 0"),
    "ess": (lambda ess: 1 <= ess < math.inf, "the number of training examples, at least 1"),
    "hess_init": (lambda hess: 0 < hess < math.inf, "finite and above 0"),
    "betas": (lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "two numbers in [0, 1)"),
    "weight_decay": (lambda decay: 0 <= decay < math.inf, "finite and at least 0"),
    "seed": (lambda seed: isinstance(seed, int) and seed >= 0, "a whole number of at least 0"),
}


class IVON(torch.optim.Optimizer):
    """Improved Variational Online Newton (Shen et al. 2024, arXiv 2402.17641, Algorithm 1).

    Fits an independent Gaussian N(m, sigma^2) to the posterior of every parameter, sigma = 1 / sqrt(ess (h + delta)).
    Each step takes the gradient g_hat of the mean loss at one draw theta of all parameters, and

        h_hat = g_hat (theta - m) / sigma^2
        g <- beta1 g + (1 - beta1) g_hat
        h <- beta2 h + (1 - beta2) h_hat + (1 - beta2)^2 (h - h_hat)^2 / (2 (h + delta))
        m <- m - lr (hess_init + delta) (g / (1 - beta1^t) + delta m) / (h + delta)

    so that ``lr`` is on the scale of SGD's. No single step takes more than half of h + delta: sigma is always defined.

        for batch in loader:
            optimizer.zero_grad()
            with optimizer.draw():
                loss(model, batch).backward()
            optimizer.step()

    Several backward passes before a step see the same draw, be it in one ``draw()`` or in several: accumulating
    gradients is training on the larger batch. Outside of :meth:`draw` the parameters are the means m. The noise of a
    step is a function of the seed and the number of steps taken: a resumed training goes on as if never interrupted,
    every process of several draws the same, and torch's global generators are not touched. It differs between kinds of
    device.

    Clipping gradients by their norm shrinks h_hat, so that sigma comes out too large. A gradient that is not finite
    makes the parameters NaN, as with torch's own optimizers; ``torch.amp.GradScaler`` skips such steps.

    Args:
        params: parameters, or groups of them, in float32 or float64. Those that need no gradient are not drawn.
        lr: learning rate, >= 0, read at each step. g is an average, not a sum: the lr of SGD with momentum beta1,
            divided by 1 - beta1.
        ess: lambda in the paper, the number of training examples N, >= 1, if the loss is a mean over examples; N C if
            it is one over the C labels of each too.
        hess_init: h at the start, > 0. It sets the first draws' sigma: smaller is noisier, and too small fails.
        betas: beta1 of the gradient's and beta2 of the Hessian's running average, each in [0, 1). h takes about
            1 / (1 - beta2) steps to learn: in a training of fewer, sigma stays near what ``hess_init`` made it.
        weight_decay: delta >= 0, the prior's precision divided by ess. It must not change during training.
        seed: of the noise, >= 0.

    Raises:
        UserError: an argument out of its range, in any of the groups; parameters of another type.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        ess: float,
        hess_init: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99999),
        weight_decay: float = 1e-4,
        seed: int = 0,
    ):
        self._forget_draw()
        names = {"lr": lr, "ess": ess, "hess_init": hess_init, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, {**names, "seed": seed, "steps": 0})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_draw()

    def _forget_draw(self) -> None:
        self._means: dict[Tensor, Tensor] = {}  # of the parameters that are at the draw
        self._offsets: dict[Tensor, Tensor] = {}  # theta - m of those that were, until the step

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`. UserError: see the class."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name, (fits, limit) in LIMITS.items():
            if not fits(group[name]):
                raise UserError(f"{name} must be {limit}, and it is {group[name]!r}")
        dtypes = {each.dtype for each in group["params"] if each.requires_grad} - {torch.float32, torch.float64}
        if dtypes:
            raise UserError(
                f"IVON's parameters must be float32 or float64, and some are {dtypes.pop()}, too coarse for its "
                "noise: load the model in float32, and have the Trainer's bf16=True or fp16=True for speed"
            )

    # The draw

    @torch.no_grad()
    def perturb(self) -> None:
        """Replace the parameters by this step's draw theta ~ N(m, sigma^2), until :meth:`restore` or :meth:`step`."""
        self.restore()
        self._forget_draw()
        for index, group in enumerate(self.param_groups):
            params = [parameter for parameter in group["params"] if parameter.requires_grad]
            if not params:
                continue
            self._start(params, group)
            self._means.update((parameter, parameter.clone()) for parameter in params)
            noise = standard_normals(params, group["seed"], group["steps"], index)
            torch._foreach_addcmul_(params, noise, self._stds(params, group))

    @torch.no_grad()
    def restore(self) -> None:
        """Put the means back, bit for bit; nothing happens if they are in place. :meth:`step` may still follow."""
        if not self._means:
            return
        params, means = list(self._means), list(self._means.values())
        self._offsets = dict(zip(params, torch._foreach_sub(params, means), strict=True))
        torch._foreach_copy_(params, means)
        self._means = {}

    @contextmanager
    def draw(self) -> Iterator[None]:
        """The block's forward and backward passes see this step's draw; afterwards the means are back."""
        self.perturb()
        try:
            yield
        finally:
            self.restore()

    def _start(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in params:
            if parameter not in self.state:
                precision = torch.full_like(parameter, group["hess_init"] + group["weight_decay"])
                self.state[parameter] = {"step": 0, "momentum": torch.zeros_like(parameter), PRECISION: precision}

    def _stds(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        precisions = [self.state[parameter][PRECISION] for parameter in params]
        return torch._foreach_rsqrt(torch._foreach_mul(precisions, group["ess"]))

    # The step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Put the means back and update m, g and h of the parameters that have a gradient.

        Args:
            closure: computes the loss and its gradients; it is called at this step's draw.

        Returns:
            What the closure returns.

        Raises:
            UserError: there was no draw since the last step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad(), self.draw():
                loss = closure()
        self.restore()
        if not self._offsets:
            raise UserError("IVON's gradients are those at a draw: call perturb() before the backward pass")
        for group in self.param_groups:
            params = [p for p in group["params"] if p in self._offsets and p.grad is not None]
            if params:
                self._update(params, group)
            group["steps"] += 1
        self._forget_draw()
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), delta = group["betas"], group["weight_decay"]
        grads = [parameter.grad for parameter in params]
        offsets = [self._offsets[parameter] for parameter in params]
        states = [self.state[parameter] for parameter in params]
        momenta = [state["momentum"] for state in states]
        precisions = [state[PRECISION] for state in states]
        for state in states:
            state["step"] += 1

        torch._foreach_lerp_(momenta, grads, 1 - beta1)
        _update_precisions(precisions, grads, offsets, group["ess"], beta2, delta)
        directions = torch._foreach_div(momenta, [1 - beta1 ** state["step"] for state in states])
        torch._foreach_add_(directions, params, alpha=delta)
        torch._foreach_div_(directions, precisions)
        torch._foreach_add_(params, directions, alpha=-group["lr"] * (group["hess_init"] + delta))

    def posterior_std(self, model: nn.Module) -> dict[str, Tensor]:
        """sigma of each of the model's named parameters that this optimizer trains, in the parameter's shape.

        Raises:
            UserError: no step was taken yet; none of the model's parameters is trained by this optimizer.
        """
        if not any(group["steps"] for group in self.param_groups):
            raise UserError("IVON has no posterior before its first step: train, or load its state, first")
        group_of = {p: group for group in self.param_groups for p in group["params"] if p in self.state}
        stds = {n: self._stds([p], group_of[p])[0] for n, p in model.named_parameters() if p in group_of}
        if not stds:
            raise UserError("the model has none of the parameters that IVON trains: pass the model it was made for")
        return stds


def _update_precisions(
    precisions: list[Tensor], grads: list[Tensor], offsets: list[Tensor], ess: float, beta2: float, delta: float
) -> None:
    """The update of h, for s = h + delta: s <- s (1 + r + r^2 / 2) with r = (1 - beta2) (h_hat - h) / s.

    The factor is at least 1/2, so that s stays above 0 in floating point too. h_hat / s = ess g_hat (theta - m).
    """
    rates = torch._foreach_mul(grads, offsets)
    torch._foreach_mul_(rates, ess)
    torch._foreach_sub_(rates, 1)
    torch._foreach_add_(rates, torch._foreach_mul(torch._foreach_reciprocal(precisions), delta))
    torch._foreach_mul_(rates, 1 - beta2)
    growth = torch._foreach_addcmul(rates, rates, rates, value=0.5)
    torch._foreach_addcmul_(precisions, precisions, growth)


def standard_normals(params: list[Tensor], *key: int) -> list[Tensor]:
    """N(0, 1) in each parameter's shape, type and place: a function of the key, numbers >= 0, and of their order."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    generators = {p.device: torch.Generator(p.device).manual_seed(seed) for p in params}
    return [torch.randn(p.shape, generator=generators[p.device], dtype=p.dtype, device=p.device) for p in params]


@dataclass(frozen=True)
class IVONVariational(TeacherSpec):
    """A Gaussian over all weights of a network that :class:`IVON` trains, or over its adapters' where it has some.

    Args:
        lr: learning rate; that of the training if not given.
        initial_std: of the weights, > 0, at the first step; unless ``hess_init`` says so in IVON's terms.
        hess_init, betas: see :class:`IVON`.
    """

    kind, method = "ivon", "variational"
    learning_rates = (0.3, 0.005)  # on the scale of SGD's

    lr: float | None = None
    initial_std: float = 0.05
    hess_init: float | None = option(
        None,
        "a short training leaves standard deviations near 1 / sqrt(hess_init * examples)",
        command_line=1.0,
    )
    betas: tuple[float, float] = (0.9, 0.99999)

    def __post_init__(self):
        super().__post_init__()
        check_positive(initial_std=self.initial_std)

    def facts(self) -> dict[str, Any]:
        return {"posterior": "ivon"}

    def fit(self, context: FitContext) -> VariationalTeacher:
        network = context.network()
        likelihood = likelihood_by(network, context.validation_batches(), context.problem_type)
        labels = context.num_train
        if classifies_tokens(network) or predicts_next_tokens(network):
            labels = sum(int(likelihood.labeled(split(batch)[1]).sum()) for batch in context.train_batches())
        size = labels * likelihood.nats(likelihood.num_values(num_classes_of(network)))
        hess_init = 1 / (size * self.initial_std**2) if self.hess_init is None else self.hess_init
        rate = context.learning_rate if self.lr is None else self.lr
        trained = [weight for weight in network.parameters() if weight.requires_grad]  # of adapters, these alone
        optimizer = IVON(trained, lr=rate, ess=size, hess_init=hess_init, betas=self.betas, seed=context.seed)
        context.train(network, optimizer)
        return VariationalTeacher(network, optimizer.posterior_std(network), likelihood=likelihood)
