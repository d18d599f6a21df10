"""Data sets, P x K batches, augmentation, and training sets held in memory.

- `read_dataset` finds and lists a data set; `registry` lists all of them, and each layout has a module.
- `PeopleDataset` reads a person's files; `PersonStore` holds a whole training set; `PKSampler` chooses batches.
- `augment_batch` turns stored bytes into a step's inputs on the device; `eval_transform` does so for tests.
- `synth` renders synthetic people.

This package may import `densepose`, `ops` and the layers below. It does not import `models`.
"""

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.dataset import Collate, PeopleDataset, PersonBatch, PersonItem
from dsa_fast.data.people import Names, PeopleSplits, Person
from dsa_fast.data.person_store import PersonStore, StoreLoader
from dsa_fast.data.registry import DATASETS, read_dataset
from dsa_fast.data.sampler import PKSampler
from dsa_fast.data.transforms import Draws, augment_batch, eval_transform, normalize, resize
from dsa_fast.data.verify import verify_files

__all__ = [
    "DATASETS",
    "AugmentConfig",
    "Collate",
    "Draws",
    "Names",
    "PKSampler",
    "PeopleDataset",
    "PeopleSplits",
    "Person",
    "PersonBatch",
    "PersonItem",
    "PersonStore",
    "StoreLoader",
    "augment_batch",
    "eval_transform",
    "normalize",
    "read_dataset",
    "resize",
    "verify_files",
]
