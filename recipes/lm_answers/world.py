"""Questions whose answers are ambiguous, the exact probability of every answer, and a tokenizer of their words."""

from dataclasses import dataclass
from functools import cached_property

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast


def words(line: str) -> list[str]:
    return line.split()


ANIMALS = words(
    "badger bear beaver bison boar camel cat cow crane crow deer dog donkey duck eagle fox frog goat goose hare heron "
    "horse lynx mole mouse otter owl rabbit sheep wolf"
)
ADJECTIVES = words("brave gray hungry lazy little old shy young")
HABITS = {  # a question, and the nouns that may answer it
    "what does the {} {} eat ?": words("acorns apples beetles berries eggs fish grass honey"),
    "where does the {} {} sleep ?": words("barns burrows caves hedges nests reeds rocks trees"),
    "what does the {} {} fear ?": words("eagles fire floods hunters noise snakes storms wolves"),
    "what does the {} {} seek ?": words("company food light peace play shade warmth water"),
    "when does the {} {} rest ?": words("autumn dawn dusk evening midday morning night winter"),
}
DEGREES = words("mostly often rarely sometimes")  # the first word of every answer
GROUPS, CANDIDATES = 6, 3  # of animals that live alike, and the nouns that answer a question about one of them
PLAUSIBLE = 0.1  # answers of at least this probability are references
PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"


@dataclass(frozen=True)
class World:
    """All 1,200 questions, and 32 answers to each, of two words, with their exact probabilities.

    An animal belongs to one of six groups; the group decides which three nouns may answer a question and how likely
    they are on the whole, the adjective which of them it prefers and how often that is so.

    Args:
        seed: of who belongs where and prefers what.
    """

    seed: int = 0

    @cached_property
    def questions(self) -> list[str]:
        return [habit.format(adjective, animal) for habit, adjective, animal in self._facts]

    @cached_property
    def _facts(self) -> list[tuple[str, str, str]]:
        return [(habit, adjective, animal) for habit in HABITS for adjective in ADJECTIVES for animal in ANIMALS]

    @cached_property
    def answers(self) -> list[list[str]]:
        return [[f"{degree} {noun}" for degree in DEGREES for noun in HABITS[habit]] for habit, _, _ in self._facts]

    @cached_property
    def probs(self) -> Tensor:
        """The probability of each answer, [1200, 32], in the order of ``answers``."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        nouns = len(next(iter(HABITS.values())))
        group = torch.randint(GROUPS, (len(ANIMALS),), generator=generator)
        likely = torch.full((len(HABITS), GROUPS, nouns), -torch.inf, dtype=torch.float64)
        candidates = torch.rand(likely.shape, generator=generator).argsort(dim=-1)[..., :CANDIDATES]
        likely.scatter_(-1, candidates, normal(*candidates.shape))
        tilt = normal(len(HABITS), len(ADJECTIVES), nouns)
        degree = 1.5 * normal(len(ADJECTIVES), len(DEGREES)) + normal(nouns, 1, len(DEGREES)) / 2
        of_noun = (likely[:, None, group] + tilt[:, :, None]).softmax(dim=-1)  # habit, adjective, animal, noun
        of_degree = degree.softmax(dim=-1)  # noun, adjective, degree
        joint = torch.einsum("haxn,nad->haxdn", of_noun, of_degree)
        return joint.flatten(3).flatten(0, 2)

    def references(self, number: int) -> list[str]:
        """The plausible answers to a question; the most probable first."""
        order = self.probs[number].argsort(descending=True).tolist()
        return [self.answers[number][i] for i in order if self.probs[number, i] >= PLAUSIBLE or i == order[0]]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for each token."""
    known = {word for habit, nouns in HABITS.items() for word in (*words(habit.replace("{}", "")), *nouns)}
    known |= {*ANIMALS, *ADJECTIVES, *DEGREES}
    vocabulary = {word: i for i, word in enumerate([PAD, END, UNKNOWN, *sorted(known)])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)
