"""Groups of equal digests, held to a plain grouping by a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore.audit.findings import Sample
from featurestore.audit.identical import find_identical
from featurestore.audit.near import Known


@given(
    rows=st.lists(st.tuples(*(st.integers(0, 2),) * 2, st.integers(0, 6)), max_size=20),
    keep=st.integers(0, 4),
)
def test_groups_are_those_of_a_dictionary_in_the_stated_order(rows, keep):
    splits, labels, digests = np.array(rows, np.int64).reshape(-1, 3).T
    found = find_identical(
        Known(splits=splits, labels=labels, digests=digests),
        keep=keep,
        name=lambda row: Sample(str(splits[row]), str(row), str(labels[row])),
        digest=lambda row: str(digests[row]),
    )
    by_digest = {}
    for row, (_, _, digest) in enumerate(rows):
        by_digest.setdefault(digest, []).append(row)
    groups = [group for group in by_digest.values() if len(group) > 1]

    def many(group, column):
        return len({rows[row][column] for row in group}) > 1

    groups.sort(key=lambda group: (not many(group, 0), not many(group, 1), -len(group), group[0]))
    assert [[int(sample.sample_id) for sample in group.samples] for group in found.groups] == (
        groups[:keep]
    )
    assert [group.sha256 for group in found.groups] == [str(rows[g[0]][2]) for g in groups[:keep]]
    assert found.across == sum(many(group, 0) for group in groups)
    assert found.within == len(groups) - found.across
    assert found.disagreeing == sum(many(group, 1) for group in groups)
