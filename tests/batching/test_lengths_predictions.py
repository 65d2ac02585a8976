"""Files of predictors, in every form they come in."""

from __future__ import annotations

import numpy as np
import pytest

from gpuplan.errors import InputError, UsageError
from gpuplan.profiles.lengths import Buckets, Lengths
from gpuplan.profiles.predictions import load_predictions, predictions_csv


@pytest.fixture
def read(tmp_path):
    """Return a reader of a file's text."""

    def load(text, name="predictions.csv", **options):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_predictions(path, **options)

    return load


def test_points(read):
    """A predicted length is a point."""
    predictions = read("id,predicted_output_tokens\na,5\nb,7\n")
    assert predictions.of(np.array(["b", "a"], dtype=object)).mean().tolist() == [7.0, 5.0]


def test_bucket_edges(read):
    """A bucket is named by its upper edge, in the preset or in given buckets."""
    assert read("id,output_bucket\n1,8\n2,2048\n").lengths.most().tolist() == [8, 2048]
    assert read("id,output_bucket\n1,100\n", buckets=Buckets((50, 100))).lengths.most().tolist() == [100]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id,quantiles\na,0.5:10;1:20\nb,0.25:1;0.5:4;1:5\n", "p.csv"),
        ('id,quantiles\na,"{""0.5"": 10, ""1"": 20}"\nb,"{""0.25"": 1, ""0.5"": 4, ""1"": 5}"\n', "p.csv"),
        (
            '{"id": "a", "quantiles": {"0.5": 10, "1": 20}}\n{"id": "b", "quantiles": {"0.25": 1, "0.5": 4, "1": 5}}\n',
            "p.jsonl",
        ),
    ],
)
def test_quantiles(read, text, name):
    """Quantiles may differ in number by row: 0.5 at 10 and 20; 0.25 at 1 and 4, 0.5 at 5."""
    lengths = read(text, name).lengths
    assert lengths.tokens.tolist() == [10, 20, 1, 4, 5]
    assert lengths.probability == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.5])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id,samples\na,3;5;5;9\nb,7\n", "p.csv"),
        ('id,samples\na,"[3, 5, 5, 9]"\nb,[7]\n', "p.csv"),
        ('{"id": "a", "samples": [3, 5, 5, 9]}\n{"id": "b", "samples": [7]}\n', "p.jsonl"),
    ],
)
def test_samples(read, text, name):
    """Samples are equally likely: mean (3+5+5+9)/4."""
    assert read(text, name).lengths.mean().tolist() == [5.5, 7.0]


def test_parquet(tmp_path):
    """Parquet holds lists and structs as they are."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"id": [1, 2], "samples": [[3, 5], [7]]}), tmp_path / "s.parquet")
    parquet.write_table(
        pa.table({"id": [1, 2], "quantiles": [{"0.5": 3, "1": 5}, {"0.5": 7, "1": 9}]}), tmp_path / "q.parquet"
    )
    assert load_predictions(tmp_path / "s.parquet").lengths.mean().tolist() == [4.0, 7.0]
    assert load_predictions(tmp_path / "q.parquet").lengths.mean().tolist() == [4.0, 8.0]


def test_without_ids_rows_are_in_order(read):
    """Row i speaks of request i when there is no id, and their number must agree."""
    predictions = read("predicted_output_tokens\n5\n7\n")
    assert predictions.of(np.array([10, 20])).mean().tolist() == [5.0, 7.0]
    with pytest.raises(InputError, match=r"each of 3 requests, got 2 rows; add a column id"):
        predictions.of(np.array([1, 2, 3]))


def test_requests_without_a_prediction_are_named(read):
    """The first missing ids are named."""
    with pytest.raises(InputError, match=r"got none for 3, 4$"):
        read("id,predicted_output_tokens\n1,5\n").of(np.array([1, 3, 4]))


def test_columns_can_be_mapped(read):
    """A column of another name is mapped; of two kinds the mapped one counts."""
    text = "request,length,output_bucket\n1,5,8\n"
    columns = {"id": "request", "predicted_output_tokens": "length"}
    assert read(text, columns=columns).lengths.tokens.tolist() == [5]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            "id,guess\n1,5\n",
            {},
            "expected one column out of predicted_output_tokens, output_bucket, quantiles, samples",
        ),
        ("id,output_bucket,samples\n1,8,5\n", {}, "got output_bucket and samples; leave one of them"),
        ("id,output_bucket\n1,3\n", {}, "row 1: expected an upper edge out of 8, 16, 32"),
        ("id,predicted_output_tokens\n1,-5\n", {}, "row 1: expected a whole number of tokens of at least 0"),
        ("id,predicted_output_tokens\n1,\n", {}, "an empty cell or NaN"),
        ("id,predicted_output_tokens\n1,5\n1,6\n", {}, "row 2: expected distinct ids, got 1 again"),
        ("id,predicted_output_tokens\n", {}, "a header without rows"),
        ("id,quantiles\n1,0.5:10;0.9:20\n", {}, "levels up to 0.9"),
        ("id,quantiles\n1,1:10\n2,0.5:10;1:5\n", {}, "row 2: expected quantiles that rise"),
        ("id,quantiles\n1,\n", {}, "row 1: expected quantiles such as"),
        ('id,quantiles\n1,"{""0.5"": "\n', {}, "row 1: expected JSON"),
        ("id,samples\n1,a;b\n", {}, "row 1: expected numbers"),
        ("id,samples\n1,\n", {}, "row 1: expected samples such as"),
        ("id,samples\n1,5.5\n", {}, "row 1: expected a whole number of tokens, got 5.5"),
        ("id,samples\n1,5\n", {"columns": {"samples": "x"}}, "the column 'x' that samples is mapped to"),
        ("", {}, "empty file"),
    ],
)
def test_bad_files_are_refused(read, text, options, words):
    """Each defect has its own sentence, with the file and the row."""
    with pytest.raises(InputError) as caught:
        read(text, **options)
    assert words in str(caught.value)
    assert "predictions.csv" in str(caught.value)


def test_unknown_column_name_is_a_usage_error(read):
    """A mapping from a name that predictions do not have."""
    with pytest.raises(UsageError, match="no column 'prompt_tokens' in predictions"):
        read("id,samples\n1,5\n", columns={"prompt_tokens": "id"})


def test_round_trip(read):
    """What is written is read back exactly, levels included."""
    lengths = Lengths.of_rows([[3, 5, 7], [1], [2, 2, 4]])
    back = read(predictions_csv(np.array([7, 8, 9]), lengths)).of(np.array([7, 8, 9]))
    assert back.tokens.tolist() == lengths.tokens.tolist()
    assert back.probability == pytest.approx(lengths.probability, rel=1e-12)
