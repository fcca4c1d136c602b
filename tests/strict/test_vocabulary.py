"""The list of words is what its script writes, and its sources hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mlx_tilegemm.strict.vocabulary import Origin, vocabulary

SCRIPT = Path(__file__).parents[2] / "tools" / "build_vocabulary.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_vocabulary", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_is_the_one_the_script_writes(script):
    table = {
        word: (chapter, since)
        for chapter, since, listed in script.SPECIFICATION
        for word in listed.split()
    }
    listed = {word: (one.chapter, one.since) for word, one in vocabulary().items()}
    assert listed == table


def test_words_stand_in_the_headers_they_are_known_from(script):
    seen = script.words_by_header(script.installed_kernels())
    for word, origin in vocabulary().items():
        if origin.header in seen:
            assert word in seen[origin.header], (word, origin.header)
    assert sum(one.header in seen for one in vocabulary().values()) > 150


def test_no_header_needs_a_newer_metal(script):
    assert not any(script.newer(Path(one.header)) for one in vocabulary().values())


def test_the_table_tells_words_of_headers_that_do_not_exist(script, tmp_path):
    with pytest.raises(SystemExit, match="Expected kernel headers"):
        list(script.vocabulary_rows(tmp_path))


@pytest.mark.parametrize(
    ("origin", "known"),
    [
        (Origin(header="softmax.h", chapter="", since=""), True),
        (Origin(header="", chapter="MSL, Math Functions", since="1.0"), True),
        (Origin(header="", chapter="C++14, keywords", since=""), True),
        (Origin(header="", chapter="MSL, Math Functions", since="3.1"), True),
        (Origin(header="", chapter="MSL, Math Functions", since="3.2"), False),
        (Origin(header="", chapter="MSL, Math Functions", since="4.0"), False),
        (Origin(header="", chapter="", since="1.0"), False),
    ],
)
def test_what_counts_as_known(origin, known):
    assert origin.known is known
