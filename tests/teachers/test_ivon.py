import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from hf_bkd.teachers import ivon as module
from hf_bkd.teachers.ivon import IVON, standard_normals
from hf_bkd.utils.errors import UserError

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def examples(count: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 4).double(), torch.randint(3, (count,))


def mean_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def take_step(model: nn.Module, optimizer: IVON, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    with optimizer.draw():
        mean_loss(model, batch).backward()
    optimizer.step()


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def saved(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# The update


@pytest.mark.parametrize("beta2", [0.99999, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_twenty_steps_are_those_of_the_reference(monkeypatch, beta2, weight_decay):
    reference = pytest.importorskip("ivon")
    ours, theirs = network(), network()
    theirs.load_state_dict(ours.state_dict())
    mine = IVON(ours.parameters(), 0.3, 50, 0.375, (0.8, beta2), weight_decay)
    other = reference.IVON(theirs.parameters(), 0.3, 50, 0.375, 0.8, beta2, weight_decay)
    stds = [torch.full_like(value, (50 * (0.375 + weight_decay)) ** -0.5) for value in values(ours)]
    for _ in range(20):
        batch, means = examples(), values(theirs)
        other.zero_grad()
        with other.sampled_params(train=True):
            noise = [(theta - m) / std for theta, m, std in zip(values(theirs), means, stds, strict=True)]
            mean_loss(theirs, batch).backward()
        other.step()
        monkeypatch.setattr(module, "standard_normals", lambda *_, noise=noise: noise)
        take_step(ours, mine, batch)
        stds = list(mine.posterior_std(ours).values())
        torch.testing.assert_close(values(ours), values(theirs), rtol=1e-9, atol=1e-12)
        precision = torch.cat([std.flatten() for std in stds]).pow(-2) / 50
        torch.testing.assert_close(precision - weight_decay, other.param_groups[0]["hess"], rtol=1e-9, atol=1e-12)


def test_the_update_is_algorithm_1_of_the_paper_written_in_scalars():
    # loss(theta) = theta^4 / 4 - theta: its gradient is theta^3 - 1, its second derivative may vanish
    ess, beta1, beta2, hess_init, rates = 30, 0.7, 0.95, 0.6, [0.1, 0.05, 0.2, 0.0, 0.1] * 3
    for delta in (0.0, 0.02):
        weight = nn.Parameter(torch.tensor([0.5, -1.2, 2.0], dtype=torch.float64))
        optimizer = IVON([weight], 1.0, ess, hess_init, (beta1, beta2), delta)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (rates + [0])[step])
        m, g, h = weight.tolist(), [0.0] * 3, [hess_init] * 3
        for t, lr in enumerate(rates, start=1):
            optimizer.zero_grad()
            with optimizer.draw():
                theta = weight.tolist()
                (weight**4 / 4 - weight).sum().backward()
            optimizer.step()
            scheduler.step()
            for i in range(3):
                variance = 1 / (ess * (h[i] + delta))
                gradient = theta[i] ** 3 - 1
                hessian = gradient * (theta[i] - m[i]) / variance
                g[i] = beta1 * g[i] + (1 - beta1) * gradient
                correction = (1 - beta2) ** 2 * (h[i] - hessian) ** 2 / (2 * (h[i] + delta))
                h[i] = beta2 * h[i] + (1 - beta2) * hessian + correction
                slope = g[i] / (1 - beta1**t) + delta * m[i]
                m[i] -= lr * (hess_init + delta) * slope / (h[i] + delta)
            std = optimizer.posterior_std(nn.ParameterList([weight]))["0"]
            assert weight.tolist() == pytest.approx(m, rel=1e-10)
            assert std.tolist() == pytest.approx([(ess * (value + delta)) ** -0.5 for value in h], rel=1e-10)


def test_a_groups_own_settings_are_used():
    first, second = nn.Parameter(torch.ones(2).double()), nn.Parameter(torch.ones(2).double())
    optimizer = IVON([{"params": [first]}, {"params": [second], "lr": 0.0, "ess": 10**8, "weight_decay": 3.0}], 0.1, 4)
    with optimizer.draw():
        assert (first - 1).abs().max() > 1e-2 > 1e-3 > (second - 1).abs().max()
        (first.sum() + second.sum()).backward()
    optimizer.step()
    assert (first < 1).all() and (second == 1).all()


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.99999])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 1.0])
def test_standard_deviations_stay_positive_whatever_the_gradient(beta2, weight_decay):
    weight = nn.Parameter(torch.zeros(1000))
    model = nn.ParameterList([weight])
    optimizer = IVON([weight], 0.0, 100, betas=(0.9, beta2), weight_decay=weight_decay)
    for step in range(100):
        with optimizer.draw():
            offset = weight.detach().clone()
        scale = 10.0 ** torch.empty_like(weight).uniform_(-6, 6)
        # every other step h_hat < 0 throughout, and where scale is large very much so
        weight.grad = -scale * offset.sign() if step % 2 else scale * torch.randn_like(weight)
        optimizer.step()
        std = optimizer.posterior_std(model)["0"]
        assert std.isfinite().all() and (std > 0).all()


@pytest.mark.parametrize("beta2", [0.0, 0.9])
def test_the_steepest_fall_of_h_is_a_halving_of_the_precision(beta2):
    weight = nn.Parameter(torch.zeros(8))
    model = nn.ParameterList([weight])
    optimizer = IVON([weight], 0.0, 10, betas=(0.9, beta2), weight_decay=0.1)
    precision = torch.full((8,), 1.1)
    for _ in range(15):  # h_hat = h - (h + delta) / (1 - beta2) is where the update is least
        with optimizer.draw():
            offset = weight.detach().clone()
        hessian = precision - 0.1 - precision / (1 - beta2)
        weight.grad = hessian / (10 * precision * offset)
        optimizer.step()
        last, precision = precision, optimizer.posterior_std(model)["0"] ** -2 / 10
        torch.testing.assert_close(precision, last / 2, rtol=1e-3, atol=0)


def test_the_posterior_of_linear_regression_is_found():
    # mean loss |y - X w|^2 / 2N and prior N(0, 1 / (N delta)): the exact posterior has mean (H + delta)^-1 X^T y / N
    # and precision N (H + delta), of which a factorized Gaussian keeps the mean and the diagonal
    count, delta = 50, 0.1
    x = torch.randn(count, 3).double() @ torch.tensor([[1, 0.5, 0], [0, 1, 0], [0, 0, 2]]).double()
    y = x @ torch.tensor([1.0, -2.0, 0.5]).double() + torch.randn(count).double()
    hessian = x.T @ x / count
    ridge = torch.linalg.solve(hessian + delta * torch.eye(3), x.T @ y / count)
    std = (count * (hessian.diag() + delta)) ** -0.5
    chains = nn.Parameter(torch.zeros(400, 3).double())
    optimizer = IVON([chains], 0.1, count, hess_init=1.0, betas=(0.9, 0.996), weight_decay=delta)
    for _ in range(1500):
        optimizer.zero_grad()
        with optimizer.draw():
            ((y[:, None] - x @ chains.T).square().mean(dim=0) / 2).sum().backward()
        optimizer.step()
    found = optimizer.posterior_std(nn.ParameterList([chains]))["0"]
    torch.testing.assert_close(found.mean(dim=0), std, rtol=0.01, atol=0)
    assert ((chains.mean(dim=0) - ridge) / std).abs().max() < 0.05


def test_accumulated_micro_batches_are_the_whole_batch():
    whole, parts = network(), network()
    parts.load_state_dict(whole.state_dict())
    first, second = IVON(whole.parameters(), 0.1, 50), IVON(parts.parameters(), 0.1, 50)
    for _ in range(3):
        x, y = examples(12)
        take_step(whole, first, (x, y))
        second.zero_grad()
        for rows in range(0, 12, 3):
            with second.draw():
                (mean_loss(parts, (x[rows : rows + 3], y[rows : rows + 3])) / 4).backward()
        second.step()
        torch.testing.assert_close(values(parts), values(whole), rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(first.posterior_std(whole), second.posterior_std(parts), rtol=1e-10, atol=0)


def test_a_closure_is_called_at_the_draw():
    model, batch = network(), examples()
    twin = copy.deepcopy(model)
    optimizer, other = IVON(model.parameters(), 0.1, 50), IVON(twin.parameters(), 0.1, 50)
    means, seen = values(model), []

    def closure() -> Tensor:
        seen.extend(values(model))
        optimizer.zero_grad()
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    assert not any(torch.equal(theta, mean) for theta, mean in zip(seen, means, strict=True))
    take_step(twin, other, batch)
    assert_same(values(model), values(twin))


def test_parameters_without_a_gradient_are_left_alone():
    model = network()
    model[0].bias.requires_grad_(False)
    optimizer, means = IVON(model.parameters(), 0.1, 50), dict(zip(NAMES, values(model), strict=True))
    with optimizer.draw():
        mean_loss(model, examples()).backward()
        drawn = dict(zip(NAMES, values(model), strict=True))
    assert [name for name in NAMES if torch.equal(drawn[name], means[name])] == ["0.bias"]
    model[2].weight.grad = None
    optimizer.step()
    now = dict(zip(NAMES, values(model), strict=True))
    assert [name for name in NAMES if torch.equal(now[name], means[name])] == ["0.bias", "2.weight"]
    stds = optimizer.posterior_std(model)
    assert list(stds) == ["0.weight", "2.weight", "2.bias"]
    torch.testing.assert_close(stds["2.weight"], torch.full((3, 5), (50 * 1.0001) ** -0.5).double(), rtol=1e-7, atol=0)


def test_the_first_gradient_of_a_late_parameter_is_not_damped():
    late, early = nn.Parameter(torch.zeros(1).double()), nn.Parameter(torch.zeros(1).double())
    optimizer = IVON([late, early], 0.1, 50, weight_decay=0.0)
    for used in [early] * 9 + [late]:
        optimizer.zero_grad()
        with optimizer.draw():
            used.sum().backward()
        optimizer.step()
    assert late.item() == pytest.approx(-0.1, rel=1e-2)


# The draw


def test_draws_have_the_posteriors_moments():
    weight = nn.Parameter(torch.full((100_000,), 3.0))
    optimizer = IVON([weight], 0.1, 25, hess_init=0.15, weight_decay=0.01)
    optimizer.perturb()
    assert weight.mean().item() == pytest.approx(3, abs=4 * 0.5 / math.sqrt(100_000))
    assert weight.std().item() == pytest.approx(0.5, rel=4 / math.sqrt(200_000))


def test_the_means_come_back_bit_for_bit():
    model = network().float()
    optimizer, means = IVON(model.parameters(), 0.1, 3), values(model)
    optimizer.restore()
    assert_same(values(model), means)
    optimizer.perturb()
    draw = values(model)
    assert not any(torch.equal(theta, mean) for theta, mean in zip(draw, means, strict=True))
    optimizer.perturb()
    assert_same(values(model), draw)
    for _ in range(2):
        optimizer.restore()
        assert_same(values(model), means)
    with pytest.raises(RuntimeError, match="out of memory"), optimizer.draw():
        assert_same(values(model), draw)
        raise RuntimeError("out of memory")
    assert_same(values(model), means)


def test_step_wants_a_draw_each_time():
    model = network()
    optimizer = IVON(model.parameters(), 0.1, 50)
    for _ in range(2):
        mean_loss(model, examples()).backward()
        with pytest.raises(UserError, match=r"call perturb\(\) before the backward pass"):
            optimizer.step()
        take_step(model, optimizer, examples())


def test_the_noise_is_another_for_each_step_seed_group_and_parameter():
    shapes = [torch.empty(50), torch.empty(50)]
    draws = [noise for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)] for noise in standard_normals(shapes, *key)]
    assert len({tuple(noise.tolist()) for noise in draws}) == 8
    assert_same(standard_normals(shapes, 0, 1, 0), draws[4:6])
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(8)
    assert correlations.abs().max() < 5 / math.sqrt(50)

    signs = set()
    for seed in (0, 1):
        params = [nn.Parameter(torch.zeros(50)) for _ in range(2)]
        optimizer = IVON([{"params": [parameter]} for parameter in params], 0.0, 50, seed=seed)
        for _ in range(2):
            with optimizer.draw():
                signs.update(tuple((parameter > 0).tolist()) for parameter in params)
                sum(params).sum().backward()
            optimizer.step()
    assert len(signs) == 8


NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_A_GPU)])
def test_torchs_generator_is_neither_read_nor_moved(device):
    model, (x, y), runs = network().to(device), examples(), []
    generator = torch.cuda if device == "cuda" else torch
    for seed in (1, 2):
        twin = copy.deepcopy(model)
        optimizer = IVON(twin.parameters(), 0.1, 50)
        torch.manual_seed(seed)
        state = generator.get_rng_state()
        take_step(twin, optimizer, (x.to(device), y.to(device)))
        assert torch.equal(generator.get_rng_state(), state)
        runs.append(values(twin))
    assert_same(*runs)


# Going on


@pytest.mark.parametrize("pending", [False, True])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(pending):
    model, batches = network(), [examples() for _ in range(6)]
    optimizer = IVON(model.parameters(), 0.2, 50, 0.3, (0.8, 0.9), 0.01, seed=7)
    for batch in batches[:3]:
        take_step(model, optimizer, batch)
    model_state, optimizer_state = saved(model.state_dict()), saved(optimizer.state_dict())
    for batch in batches[3:]:
        take_step(model, optimizer, batch)

    again = network()
    resumed = IVON(again.parameters(), 1.0, 9)
    if pending:
        resumed.perturb()
    again.load_state_dict(model_state)
    resumed.load_state_dict(optimizer_state)
    with pytest.raises(UserError, match="perturb"):
        resumed.step()
    for batch in batches[3:]:
        take_step(again, resumed, batch)
    assert_same(values(again), values(model))
    assert_same(resumed.posterior_std(again), optimizer.posterior_std(model))
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_a_step_that_the_gradient_scaler_skips_changes_nothing():
    model, batch = network(), examples()
    twin = copy.deepcopy(model)
    optimizer, other = IVON(model.parameters(), 0.1, 50), IVON(twin.parameters(), 0.1, 50)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, math.inf, 1.0):
        optimizer.zero_grad()
        optimizer.perturb()
        scaler.scale(mean_loss(model, batch) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    for _ in range(2):
        take_step(twin, other, batch)
    assert_same(values(model), values(twin))


def test_a_gradient_that_is_not_finite_shows_in_the_parameters():
    model = network()
    optimizer = IVON(model.parameters(), 0.1, 50)
    with optimizer.draw():
        (mean_loss(model, examples()) * math.nan).backward()
    optimizer.step()
    assert all(value.isnan().all() for value in values(model))


# What a user can get wrong


OUT_OF_RANGE = {
    "lr": [-0.1, math.nan],
    "ess": [0, 0.5, math.inf],
    "hess_init": [0.0, -1.0],
    "betas": [(1.0, 0.9), (0.9, -0.1), (0.9,)],
    "weight_decay": [-1e-4, math.nan],
    "seed": [-1, 0.5],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, bad in OUT_OF_RANGE.items() for value in bad])
def test_arguments_out_of_range_are_named_with_their_value(name, value):
    weight = nn.Parameter(torch.zeros(2))
    with pytest.raises(UserError) as whole:
        IVON([weight], **{"lr": 0.1, "ess": 50, name: value})
    with pytest.raises(UserError) as group:
        IVON([{"params": [weight], name: value}], 0.1, 50)
    for error in (whole, group):
        assert str(error.value).startswith(f"{name} must be ") and str(error.value).endswith(f"it is {value!r}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_refused(dtype):
    with pytest.raises(UserError, match=f"{dtype}.*load the model in float32"):
        IVON(nn.Linear(2, 2).to(dtype).parameters(), 0.1, 50)


def test_there_is_no_posterior_before_a_step_or_of_another_model():
    model = network()
    optimizer = IVON(model.parameters(), 0.1, 50)
    optimizer.perturb()
    with pytest.raises(UserError, match="before its first step"):
        optimizer.posterior_std(model)
    take_step(model, optimizer, examples())
    with pytest.raises(UserError, match="none of the parameters"):
        optimizer.posterior_std(network())
    stds = optimizer.posterior_std(nn.ModuleDict({"inner": model, "other": nn.Linear(2, 2)}))
    shapes = {f"inner.{name}": parameter.shape for name, parameter in model.named_parameters()}
    assert {name: std.shape for name, std in stds.items()} == shapes
