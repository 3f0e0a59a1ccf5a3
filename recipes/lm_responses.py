"""Does a teacher's uncertainty reach students that learn from its answers? Language models of known worlds.

The claims of arXiv 2601.18909, and soft labels of tokens beside k answers. Data: made here, 1,200 questions about
animals, each with 32 answers of two words; a language model of two layers learns answers to some, and answers others k
times for students of one layer.

python recipes/lm_responses.py --output_dir runs/lm_responses      forty minutes on one core; goes on where it stopped
"""

import logging
from pathlib import Path

import datasets
import transformers
from lm_answers.cells import Cells, ResponseArguments, check_settings
from lm_answers.claims import all_claims
from lm_answers.measuring import Measures

from hf_bkd.reports.claims import Claim, main
from hf_bkd.utils.checks import check_count

NOTE = (
    "The paper distills GPT-2-class models on BioASQ, and no number of its tables could be recovered; its experiments "
    "are repeated here with Llamas of one and two layers, trained from scratch, in worlds where the exact probability "
    "of every answer is known, so that nothing of what students say is estimated but embeddings. Embeddings are bags "
    "of words, of length 1. Students of a kind differ in one source of randomness alone, and all take as many steps "
    "of as many rows. Numbers are means over seeds, each a world with teachers and students of its own; ratios are "
    "paired by seed. A check is undecided where the limit lies within its 95 % interval by Student's t; of forty such "
    "intervals, none of them corrected for the others, two miss what they are of."
)


def claims(options: ResponseArguments) -> list[Claim]:
    check_count(3, students=options.students)
    check_count(2, answers=options.answers)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("hf_bkd.responses").setLevel(logging.ERROR)  # students that never end are counted as wrong
    folder = Path(options.output_dir) / "cells"
    check_settings(options, folder)
    return all_claims([Measures(Cells(options, int(seed), folder)) for seed in options.seeds.split(",")])


if __name__ == "__main__":
    main("lm_responses", NOTE, claims, ResponseArguments)
