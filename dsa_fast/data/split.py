"""Splits people by identity into those to train on and those to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dsa_fast.data.people import PeopleSplits, Person

__all__ = ["check_share", "matchable", "split_people", "split_test"]


def matchable(people: Sequence[Person]) -> list[int]:
    """Returns the pids above 0 that two or more cameras see, sorted. Others have no right match in a test."""
    cameras: dict[int, set[int]] = {}
    for person in people:
        if person.pid > 0:
            cameras.setdefault(person.pid, set()).add(person.camid)
    return sorted(pid for pid, seen in cameras.items() if len(seen) > 1)


def split_test(people: Sequence[Person]) -> tuple[list[Person], list[Person]]:
    """Splits the images of a test into query and gallery.

    For each identity, the first image by each camera is a query. The other images are the gallery. If no query of an
    identity has a right match there, as with one image per camera, all images of the identity are in the gallery too:
    the protocol leaves out the images by the query's camera anyway, the query itself among them.

    Args:
        people: images of people with pids above 0, in an order that decides which images are queries.

    Returns:
        The queries and the gallery.
    """
    query: dict[tuple[int, int], Person] = {}
    others: dict[int, list[Person]] = {}
    for person in people:
        if query.setdefault((person.pid, person.camid), person) is not person:
            others.setdefault(person.pid, []).append(person)
    matched = {pid for pid, camid in query if any(person.camid != camid for person in others.get(pid, []))}
    chosen = {id(person) for person in query.values()}
    gallery = [person for person in people if person.pid not in matched or id(person) not in chosen]
    return list(query.values()), gallery


def check_share(test: float) -> None:
    """Raises ValueError unless `test` is a share of the identities that `split_people` can test on."""
    if not 0 < test < 1:
        raise ValueError(f"test must be above 0 and below 1, got {test}")


def split_people(people: PeopleSplits, test: float = 0.5, seed: int = 0) -> PeopleSplits:
    """Splits a data set without splits by identity. The same data and seed give the same split.

    Identities seen by two or more cameras (with two or more images, if no cameras are known) are chosen for the test
    at random. Query and gallery are those of `split_test`, after the order of the images was shuffled. All other
    identities are for training. Distractors and junk stay in the gallery.

    Args:
        people: the data set.
        test: share of the identities that can be tested, above 0 and below 1. At least one identity is tested, and at
            least one of them trained on.
        seed: random seed.

    Raises:
        ValueError: the data set is split already, `test` is out of its range, or fewer than two identities can be
            tested.
    """
    if people.is_split:
        raise ValueError(f"the data set must have no splits, got train, query or gallery in {people.root}")
    check_share(test)
    able = matchable(people.gallery)
    if len(able) < 2:
        seen = "seen by two cameras each" if people.has_cameras else "with two images each"
        hint = "; without its cameras (no column camid), two images are enough" if people.has_cameras else ""
        raise ValueError(f"a split needs at least two people {seen}, got {len(able)} in {people.root}{hint}")
    rng = np.random.default_rng(seed)
    count = min(max(round(test * len(able)), 1), len(able) - 1)
    chosen = set(rng.permutation(able)[:count].tolist())
    tested = [person for person in people.gallery if person.pid in chosen]
    first = {id(tested[place]): order for order, place in enumerate(rng.permutation(len(tested)))}
    query, gallery = split_test(sorted(tested, key=lambda person: first[id(person)]))
    place = {id(person): number for number, person in enumerate(people.gallery)}
    others = [person for person in people.gallery if person.pid <= 0]
    query, gallery = (sorted(part, key=lambda person: place[id(person)]) for part in (query, [*gallery, *others]))
    train = [person for person in people.train if person.pid not in chosen]
    return replace(people, train=train, query=query, gallery=gallery, is_split=True)
