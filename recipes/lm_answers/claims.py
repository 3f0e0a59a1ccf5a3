"""The paper's claims on language models, and what this library adds, from the numbers of all seeds."""

from collections.abc import Sequence

from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series

from .cells import KINDS, MEMBERS, Kind
from .measuring import Interval, Measures, Numbers, slope

KS = (1, 3, 5, 10)
ALL, MEAN = ([Kind("all", 1), *(Kind(name, k) for k in KS[1:])] for name in ("all", "mean"))
ONE, SOFT = ALL[0], [Kind("soft", entries) for entries in (4, 9, 16)]
CURVES = {"all k answers": ALL, "nearest to the mean": MEAN}
STORED = "answers, or stored numbers a token"
SUPERVISIONS = {
    "all": "all of {k} answers",
    "mean": "nearest to the mean of {k}",
    "inverse_variance": "nearest to the weighted mean of {k}",
    "oracle": "ORACLE of {k}",
    "soft": "soft labels, {k} entries",
}


class Comparison:
    """All seeds' numbers, and their ratios as checks."""

    def __init__(self, seeds: Sequence[Measures]):
        self.seeds = seeds

    def values(self, kind: Kind, number: str) -> list[float]:
        return [getattr(seed.of(kind), number) for seed in self.seeds]

    def mean(self, kind: Kind, number: str) -> Interval:
        return Interval.of(self.values(kind, number))

    def ratio(self, kind: Kind, other: Kind, number: str) -> Interval:
        return Interval.of_ratios(self.values(kind, number), self.values(other, number))

    def difference(self, kind: Kind, other: Kind, number: str) -> Interval:
        values, others = self.values(kind, number), self.values(other, number)
        return Interval.of([one - two for one, two in zip(values, others, strict=True)])

    def check(
        self, number: str, kind: Kind, other: Kind, compare: str = "at most", limit: float | None = None
    ) -> Check:
        """A ratio or difference beside the limit that the claim sets to it."""
        minus = number in DIFFERENCES
        seen = self.difference(kind, other, number) if minus else self.ratio(kind, other, number)
        name = f"{TITLES[number]}, {label(kind)} {'less' if minus else '/'} {label(other)}"
        return check_of(name, float(not minus) if limit is None else limit, seen, 0, compare)


def check_of(name: str, predicted: float, seen: Interval, tolerance: float, compare: str) -> Check:
    return Check(name, predicted, seen.value, tolerance, compare, (seen.low, seen.high))


TITLES = {
    "variance": "variance between students",
    "distance": "distance from the teacher",
    "wrong": "distance from the truth",
    "entropy": "entropy",
    "off": "systematic noise",
    "similarity": "similarity to the references",
    "unsupported": "unsupported answers",
}
DIFFERENCES = ("off", "similarity", "unsupported")  # which may be 0, or below


def label(kind: Kind) -> str:
    made = "one answer" if kind == Kind("all", 1, kind.vary) else SUPERVISIONS[kind.supervision].format(k=kind.k)
    varied = "" if kind.vary == "teacher" else f", by {kind.vary}"
    return made + varied + (" of the ensemble" if kind.teacher == "ensemble" else "")


def all_claims(seeds: Sequence[Measures]) -> list[Claim]:
    numbers = Comparison(seeds)
    return [
        averaging_claim(numbers),
        quality_claim(numbers),
        weighting_claim(numbers),
        soft_claim(numbers),
        uncertainty_claim(numbers),
        sources_claim(numbers),
        bayesian_claim(numbers),
    ]


def averaging_claim(numbers: Comparison) -> Claim:
    slopes = {name: Interval.of([slope(kinds, seed) for seed in numbers.seeds]) for name, kinds in CURVES.items()}
    checks = [check_of(f"slope, {name}", -1, each, 0.15, "absolute") for name, each in slopes.items()]
    first = numbers.mean(ONE, "variance").value
    law = Series("1 / k from one answer", KS, [first / k for k in KS], style="dashed")
    panels = [
        Panel("How much students differ", STORED, TITLES["variance"], [law, *_curves(numbers, "variance")], "xy"),
        Panel("How far each is from its teacher", STORED, TITLES["distance"], _curves(numbers, "distance"), "xy"),
    ]
    several = {name: Interval.of([slope(kinds[1:], seed) for seed in numbers.seeds]) for name, kinds in CURVES.items()}
    shown = "; ".join(f"{name}: {slopes[name]}, from three answers on {several[name]}" for name in CURVES)
    return Claim(
        "k answers: how the variance between students falls",
        "Each student learns from answers of its own, and all start from the same weights and see their rows in the "
        "same order. The paper keeps of k answers the one whose embedding is nearest to their mean; beside it, "
        f"students that learn all k, in as many steps. Slopes of log variance in log k, with 95 % intervals: {shown}. "
        "1 / k is the law of numbers that are averaged. Texts can't be, and the nearest to their mean is one of them: "
        "it goes towards the most usual answer.\n\n" + "\n".join(_table(numbers)),
        "arXiv 2601.18909, averaging of k responses",
        checks,
        [
            Figure(
                "responses",
                "Left: the variance between students of an answer's probability, against k, or against a token's "
                "stored entries and itself for soft labels. Right: each student's distance from its teacher. Bars "
                "are 95 % intervals over seeds.",
                panels,
            )
        ],
        "All students take as many steps, so that one answer is seen ten times as often as each of ten: part of what "
        "more answers bring is that less is memorized.",
    )


def _curves(numbers: Comparison, number: str) -> list[Series]:
    """All ways to use answers, by k; soft labels by what is stored of a token, it and entries."""
    curves = [*CURVES.items(), ("soft labels of one answer, by stored numbers", SOFT)]
    made = []
    for color, (name, kinds) in enumerate(curves):
        means, errors = _drawn([numbers.mean(kind, number) for kind in kinds])
        made.append(Series(name, [kind.k + (kinds is SOFT) for kind in kinds], means, errors, color=color))
    return made


def _drawn(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    return [each.value for each in intervals], [each.half for each in intervals]


def _table(numbers: Comparison) -> list[str]:
    """A row for each kind, and the teachers; means over seeds, with their 95 % intervals."""
    shown = ("variance", "systematic", "distance", "wrong", "entropy", "off", "similarity", "unsupported")
    heads = ("variance", "systematic", "from teacher", "from truth", "entropy", "noise", "similarity", "unsupported")
    rows = [f"| learned | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]

    def row(name: str, own: Sequence[Numbers]) -> str:
        means = [Interval.of([getattr(each, number) for each in own]) for number in shown]
        return f"| {name} | {' | '.join(f'{mean.value:.3g} ± {mean.half:.1g}' for mean in means)} |"

    for name in ("single", "ensemble"):
        own = [seed.teacher(name)._replace(off=float("nan"), systematic=float("nan")) for seed in numbers.seeds]
        rows.append(row(f"the {name} teacher itself", own).replace("nan ± nan", "–"))
    return rows + [row(label(kind), [seed.of(kind) for seed in numbers.seeds]) for kind in KINDS]


def quality_claim(numbers: Comparison) -> Claim:
    kinds = [Kind("all", 5), Kind("mean", 5), Kind("inverse_variance", 5)]
    checks = [numbers.check("similarity", kind, ONE, "at least") for kind in kinds]
    checks += [numbers.check(number, kind, ONE) for number in ("off", "unsupported") for kind in kinds]
    return Claim(
        "Five answers in place of one: similarity to the references, systematic noise, hallucination",
        "The paper's table goes from one response to five. A reference is an answer that is true with a probability "
        "of at least a tenth; similarity is the cosine to the nearest one, systematic noise the square distance of "
        "what all students say on average from the most probable one, corrected for the finite numbers of students "
        "and answers. An answer is unsupported if a content word of it is in no reference and not in the question.",
        "arXiv 2601.18909, table of language models",
        checks,
    )


def weighting_claim(numbers: Comparison) -> Claim:
    checks = []
    for k in (3, 5):
        weighted, average = Kind("inverse_variance", k), Kind("mean", k)
        checks.append(numbers.check("variance", weighted, average))
        checks.append(numbers.check("off", weighted, average))
        checks.append(numbers.check("similarity", weighted, average, "at least"))
    checks.append(numbers.check("variance", Kind("inverse_variance", 5), Kind("mean", 10)))
    oracle = numbers.ratio(Kind("oracle", 5), Kind("mean", 5), "variance")
    return Claim(
        "Inverse-variance weighting against averaging",
        "The mean of k answers is combined with that of k answers of another student, which learned from answers of "
        "its own, by the inverses of the variances of both; the answer nearest to the combination is taught. That "
        "student cost k answers more, which an average could have had: hence the last check. The paper's code takes "
        "in place of the student the teacher's own mean, which is an ORACLE: its variance between students is "
        f"{oracle} times that of averaging.",
        "arXiv 2601.18909, variance-aware distillation",
        checks,
    )


def soft_claim(numbers: Comparison) -> Claim:
    pairs = [
        (Kind("soft", 4), Kind("all", 5)),
        (Kind("soft", 9), Kind("all", 10)),
        (Kind("soft", 16), Kind("all", 10)),
    ]
    checks = [numbers.check(number, *pair) for pair in pairs for number in ("variance", "distance", "wrong")]
    return Claim(
        "Soft labels of one answer's tokens against k answers",
        "A token's label is its distribution, of which some entries are stored, chosen so that they are right on "
        "average. With 4 or 9 of them an answer takes as many bytes as 5 or 10 answers do, if an entry takes as many "
        "as a token, and all students take as many steps of as many rows. The teacher answers once and reads its "
        "answer once, instead of answering 5 or 10 times.",
        "this library's question: a distribution is k = ∞ at each token, but only along one answer",
        checks,
    )


def uncertainty_claim(numbers: Comparison) -> Claim:
    teacher = [seed.teacher_entropy for seed in numbers.seeds]
    checks = []
    for kind in (ONE, Kind("mean", 5), Kind("mean", 10)):
        ratio = Interval.of_ratios(numbers.values(kind, "entropy"), teacher)
        checks.append(check_of(f"entropy, {label(kind)} / teacher's", 1, ratio, 0, "at most"))
    soft = Interval.of_ratios(numbers.values(Kind("soft", 9), "entropy"), teacher)
    more = Interval.of_ratios(numbers.values(Kind("all", 10), "entropy"), teacher)
    checks.append(numbers.check("variance", ONE, Kind("soft", 9), "at least"))
    kinds = [*ALL, *MEAN[1:], Kind("inverse_variance", 5), *SOFT]
    means, errors = _drawn([numbers.mean(kind, "entropy") for kind in kinds])
    names = [label(kind) for kind in kinds]
    drawn = [
        Series("teacher", names, [Interval.of(teacher).value] * len(names), style="dashed"),
        Series("students", names, means, errors, color=0),
    ]
    return Claim(
        "A single answer suppresses a student's own uncertainty, and leaves the variance between students",
        f"The exact entropy of a student's answers, over its teacher's, which is {Interval.of(teacher).value:.3g} "
        f"nats on average. Students of ten answers have {more} times the teacher's, those of soft labels {soft} "
        "times.",
        "arXiv 2601.18909, single responses",
        checks,
        [Figure("entropy", "95 % intervals over seeds.", [Panel("", "", "entropy of answers, nats", drawn)])],
    )


def sources_claim(numbers: Comparison) -> Claim:
    kinds = [("all", 1), ("all", 5), ("soft", 9)]
    checks = [numbers.check("variance", Kind(*ONE[:2], vary), ONE, "at least", 0.1) for vary in SOURCES[1:]]
    drawn = [
        Series(
            f"by {vary}",
            [label(Kind(*each)) for each in kinds],
            [numbers.mean(Kind(*each, vary), "variance").value for each in kinds],
            color=i,
        )
        for i, vary in enumerate(SOURCES)
    ]
    own = "; ".join(f"{label(Kind(*each))}: {numbers.mean(Kind(*each), 'spread')}" for each in kinds)
    return Claim(
        "Language models are not robust to their initial weights",
        "One source of randomness at a time: the teacher's answers, the students' initial weights, the order of their "
        "rows. A source counts as present if it makes a tenth of the variance that the teacher's single answers make; "
        "networks of numbers make less of their initial weights than of the least of noises. The fourth source, the "
        f"sampling of a student's answers, is its own spread, in the variance of an embedding: {own}.",
        "arXiv 2601.18909, initialization noise",
        checks,
        [
            Figure(
                "sources",
                "The variance between students that differ in one thing.",
                [Panel("", "", TITLES["variance"], drawn, "y")],
            )
        ],
    )


SOURCES = ("teacher", "initialization", "order")


def bayesian_claim(numbers: Comparison) -> Claim:
    pairs = [(Kind(*each, teacher="ensemble"), Kind(*each)) for each in (("all", 5), ("soft", 9))]
    checks = [numbers.check(number, *pair) for pair in pairs for number in ("wrong", "unsupported")]
    checks.append(numbers.check("wrong", pairs[1][0], pairs[0][0]))
    between, within = zip(*(seed.parts_of_teacher() for seed in numbers.seeds), strict=True)
    share = Interval.of([b / (b + w) for b, w in zip(between, within, strict=True)])
    return Claim(
        "A Bayesian teacher: answers of several networks",
        f"An ensemble of {MEMBERS} networks, which learned from answers of their own, answers by each in turn, or "
        "labels tokens by the mean of their distributions. Of the variance of its answers' embeddings the share "
        f"between its networks (epistemic) is {share}; the rest is within them (aleatoric).",
        "this library's question",
        checks,
    )
