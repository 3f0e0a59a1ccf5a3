"""A teacher of each kind, from the networks of a task."""

from collections.abc import Callable

from ...models.calling import split
from ...teachers import (
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
)
from ...training.ivon import IVON
from .task import Task


def deterministic(task: Task) -> Teacher:
    return DeterministicTeacher.fit(task.trained(0).network, task.batches(task.validation))


def laplace(task: Task) -> Teacher:
    options = task.options
    return LaplaceTeacher.fit(
        task.trained(0).network,
        task.batches(task.train, "fitting"),
        task.batches(task.validation),
        structure=options.structure,
        link=options.link,
        prior_precision=options.prior_precision,
        num_samples=options.num_samples,
    )


def mc_dropout(task: Task) -> Teacher:
    few = next(iter(task.batches(task.validation.select(range(min(8, len(task.validation)))))))
    MCDropoutTeacher(task.members[0].network).predict(split(few)[0], 2)  # a network without dropout is refused first
    return MCDropoutTeacher(task.trained(0).network)


def variational(task: Task) -> Teacher:
    options, args, network = task.options, task.args, task.members[0].network
    if options.posterior != "ivon":
        return VariationalTeacher(task.train_network(make_variational(network, options.posterior, rank=options.rank)))
    size, rate = len(task.train), args.learning_rate
    optimizer = IVON(network.parameters(), lr=rate, ess=size, hess_init=options.hess_init, seed=args.seed)
    task.train_network(network, optimizer=optimizer)
    return VariationalTeacher(network, optimizer.posterior_std(network))


def ensemble(task: Task) -> Teacher:
    return EnsembleTeacher([task.trained(number) for number in range(len(task.members))])


METHODS: dict[str, Callable[[Task], Teacher]] = {
    "deterministic": deterministic,
    "laplace": laplace,
    "mc_dropout": mc_dropout,
    "variational": variational,
    "ensemble": ensemble,
}
