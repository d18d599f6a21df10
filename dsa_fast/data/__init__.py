"""Data sets, batches and what is done to images before the networks see them."""

from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.data.registry import DATASETS, read_dataset
from dsa_fast.data.verify import verify_files

__all__ = ["DATASETS", "PeopleSplits", "Person", "read_dataset", "verify_files"]
