"""Passwords in URIs, wherever in a file."""

import pytest

from skdtune import credentials
from skdtune.errors import ConfigError
from tests.skdtune.builders import CROSS_ENTROPY, build_space

SECRET = "S3CRET"
URI = f"s3://KEY:{SECRET}@bucket/teacher"


def test_each_place_of_a_document_is_named() -> None:
    document = {
        "trial": {"method": {"teacher": URI, "choices": ["s3://me@bucket", URI]}},
        "search": {"warm_start": {"study": f"gs://bucket/x?token={SECRET}"}},
        "provenance": {"note": "see https://host/a:b and mail me@host"},
    }
    found = credentials.problems(document)
    places = ["trial.method.teacher", "trial.method.choices.1", "search.warm_start.study"]
    assert [place for place, _ in found] == places
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("cross_entropy}", f"kd, teacher: '{URI}'}}", "trial.method.teacher"),
        ("cross_entropy}", f"kd, teacher: '{URI}', oops: 1}}", "trial.method.teacher"),
        ("name: small_cnn", f"name: '{URI}'", "trial.model.name"),
    ],
)
def test_a_space_with_one_is_refused_and_it_is_not_repeated(before, after, place) -> None:
    assert before in CROSS_ENTROPY
    with pytest.raises(ConfigError) as refused:
        build_space(CROSS_ENTROPY.replace(before, after))
    assert f"{place}: a password does not belong in a URI" in str(refused.value)
    assert SECRET not in str(refused.value)
