"""Request tables: formats, public layouts, column mapping, and everything that can be wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gpuplan.errors import GpuplanError, InputError, SolverUnavailableError, UsageError
from gpuplan.profiles.problems.batching import BatchTime
from gpuplan.profiles.requests import time_warnings, unit_warnings
from gpuplan.profiles.requests_io import load_requests

TABLE = """id,arrival_s,prompt_tokens,output_tokens,slo_s,tenant,class
r1,0.0,100,20,5,acme,chat
r2,0.5,200,30,,beta,
r3,1.5,300,40,2.5,acme,code
"""


def write(folder: Path, text: str, name: str = "requests.csv") -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_our_columns(tmp_path: Path) -> None:
    """Every column arrives; a blank service level is none."""
    table = load_requests(write(tmp_path, TABLE))
    assert table.id.tolist() == ["r1", "r2", "r3"]
    assert table.prompt_tokens.tolist() == [100, 200, 300]
    assert table.request_class is not None
    assert table.request_class.tolist() == ["chat", None, "code"]
    # deadlines: 0 + 5, none, 1.5 + 2.5
    assert table.to_requests().deadline_s.tolist() == [5.0, np.inf, 4.0]
    assert table.to_requests(slo_s=10.0).deadline_s.tolist() == [5.0, 10.5, 4.0]


def test_ignoring_arrivals_keeps_service_levels_relative(tmp_path: Path) -> None:
    """With everything present at time 0 a service level of 2.5 s ends at 2.5 s."""
    requests = load_requests(write(tmp_path, TABLE)).to_requests(ignore_arrivals=True)
    assert requests.arrival_s.tolist() == [0.0] * 3
    assert requests.deadline_s.tolist() == [5.0, np.inf, 2.5]


def test_absolute_deadlines(tmp_path: Path) -> None:
    """`deadline_s` is absolute; the earlier of both counts."""
    table = load_requests(
        write(tmp_path, "arrival_s,prompt_tokens,output_tokens,slo_s,deadline_s\n1,1,1,5,4\n1,1,1,5,9\n1,1,1,,\n")
    )
    assert table.to_requests().deadline_s.tolist() == [4.0, 6.0, np.inf]


def test_json_lines(tmp_path: Path) -> None:
    """JSON Lines: missing and null optional values are none; ids may be numbers and text."""
    text = (
        '{"id": 1, "prompt_tokens": 10, "output_tokens": 5, "slo_s": null}\n\n'
        '{"id": "x", "prompt_tokens": 20, "output_tokens": 6, "slo_s": 3, "other": [1]}\n'
    )
    table = load_requests(write(tmp_path, text, "r.jsonl"))
    assert table.id.tolist() == [1, "x"]
    assert table.to_requests().deadline_s.tolist() == [np.inf, 3.0]


def test_parquet(tmp_path: Path) -> None:
    """Parquet: the same columns, nulls as none, and timestamps as arrivals."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    columns = {
        "id": ["a", "b"],
        "arrival_s": pa.array([1_000_000, 3_500_000], pa.timestamp("us")),
        "prompt_tokens": pa.array([1, 2], pa.int32()),
        "output_tokens": [3.0, 4.0],
        "slo_s": [None, 2.0],
    }
    parquet.write_table(pa.table(columns), tmp_path / "r.parquet")
    table = load_requests(tmp_path / "r.parquet")
    assert table.arrival_s.tolist() == [0.0, 2.5]
    assert table.to_requests().deadline_s.tolist() == [np.inf, 4.5]


def test_mapping_columns(tmp_path: Path) -> None:
    """Our names are mapped to a file's columns; milliseconds have names of their own."""
    path = write(tmp_path, "when,n_in,n_out,limit\n500,10,5,2000\n1500,20,6,3000\n")
    columns = {"arrival_ms": "when", "prompt_tokens": "n_in", "output_tokens": "n_out", "slo_ms": "limit"}
    table = load_requests(path, columns=columns)
    assert table.arrival_s.tolist() == [0.5, 1.5]
    assert table.to_requests().deadline_s.tolist() == [2.5, 4.5]


def test_a_mapping_wins_over_a_layout(tmp_path: Path) -> None:
    """An Azure table whose output is read from another column."""
    text = "TIMESTAMP,ContextTokens,GeneratedTokens,Predicted\n2023-11-16 18:15:46.5,10,99,7\n"
    table = load_requests(write(tmp_path, text), columns={"output_tokens": "Predicted"})
    assert (table.layout, table.output_tokens.tolist()) == ("azure-llm-2023", [7])


def test_predictions_stand_in_for_outputs(tmp_path: Path) -> None:
    """A table with predicted lengths only is planned with them."""
    table = load_requests(write(tmp_path, "prompt_tokens,predicted_output_tokens\n1,8\n"))
    assert table.output_tokens.tolist() == [8]


def test_dates_with_zones_and_sevenths(tmp_path: Path) -> None:
    """Dates of either zone count from the earliest arrival: 18:00+01:00 is 17:00 UTC."""
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 17:00:01.2500000+00:00,1,1\n2024-05-10T18:00:00+01:00,2,2\n"
    )
    assert load_requests(write(tmp_path, text)).arrival_s.tolist() == [1.25, 0.0]


def test_burstgpt(tmp_path: Path) -> None:
    """BurstGPT's header is known; failed requests have no output."""
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    text = header + "5,ChatGPT,472,18,490,x\n45,GPT-4,7,0,7,x\n"
    table = load_requests(write(tmp_path, text))
    assert table.layout == "burstgpt"
    assert table.arrival_s.tolist() == [5.0, 45.0]
    assert table.output_tokens.tolist() == [18, 0]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "layout", "size", "last_s", "tokens"),
    [
        # rows, last arrival and the first row, read off the files
        ("traces/azure2023/AzureLLMInferenceTrace_conv.csv", "azure-llm-2023", 19366, 3501.721937, (374, 44)),
        ("traces/azure2023/AzureLLMInferenceTrace_code.csv", "azure-llm-2023", 8819, 3435.948056, (4808, 10)),
        ("traces/mooncake/synthetic_trace.jsonl", "mooncake", 3993, 1022.025, (40160, 6)),
        ("traces/lengths/helix_alpaca_lengths.csv", "lengths", 47379, 0.0, (6, 34)),
        ("traces/lengths/sharegpt_8k_filtered_stats_llama2_tokenizer.csv", "sharegpt-lengths", 30731, 0.0, (74, 918)),
        ("vidur/processed_traces/splitwise_conv.csv", "vidur", 19366, 3501.721937, (374, 44)),
    ],
)
def test_public_traces(
    shared_data: Path, file: str, layout: str, size: int, last_s: float, tokens: tuple[int, int]
) -> None:
    """Public traces are read as they are, without a warning."""
    table = load_requests(shared_data / file)
    assert (table.layout, len(table)) == (layout, size)
    assert table.arrival_s.max() == pytest.approx(last_s, abs=2e-6)
    assert (table.prompt_tokens[0], table.output_tokens[0]) == tokens
    assert unit_warnings(table) == ()


BAD = {
    "missing_file": (None, "expected a file, found none"),
    "empty": ("", "got an empty file"),
    "blank": ("\n \n", "got an empty file"),
    "header_only": ("prompt_tokens,output_tokens\n", "got a header without rows"),
    "missing_output": (
        "id,prompt_tokens\n1,2\n",
        r"the column output_tokens, got id, prompt_tokens; .*--column output_tokens=COLUMN",
    ),
    "missing_both": ("a,b\n1,2\n", r"columns prompt_tokens and output_tokens, got a, b; .*--column prompt_tokens="),
    "text_tokens": ("prompt_tokens,output_tokens\n1,2\n3,many\n", r"line 3: expected a number in .*got 'many'"),
    "negative_tokens": ("prompt_tokens,output_tokens\n1,2\n-3,2\n", r"row 2: .*in column prompt_tokens, got -3"),
    "half_tokens": ("prompt_tokens,output_tokens\n1,2.5\n", r"row 1: expected a whole number .*got 2\.5"),
    "nan_tokens": ("prompt_tokens,output_tokens\n1,nan\n", r"row 1: .*got an empty cell or NaN"),
    "blank_tokens": ("prompt_tokens,output_tokens\n1,2\n,2\n", r"row 2: .*prompt_tokens, got an empty cell"),
    "negative_arrival": ("arrival_s,prompt_tokens,output_tokens\n-1,1,1\n", r"row 1: .*column arrival_s, got -1"),
    "nan_arrival": ("arrival_s,prompt_tokens,output_tokens\nNaN,1,1\n", r"row 1: .*column arrival_s, got an empty"),
    "infinite_arrival": ("arrival_s,prompt_tokens,output_tokens\ninf,1,1\n", r"row 1: .*arrival_s, got inf"),
    "bad_date": ("arrival_s,prompt_tokens,output_tokens\nMonday,1,1\n", r"line 2: .*date and time.*got 'Monday'"),
    "negative_slo": ("prompt_tokens,output_tokens,slo_s\n1,1,-2\n", r"row 1: expected a deadline no earlier than"),
    "early_deadline": (
        "arrival_s,prompt_tokens,output_tokens,deadline_s\n5,1,1,3\n",
        r"got 3 s for request 0, which arrives at 5 s",
    ),
    "id_twice": ("id,prompt_tokens,output_tokens\nx,1,1\ny,1,1\nx,1,1\n", r"row 3: expected distinct ids, got 'x'"),
    "number_twice": ("id,prompt_tokens,output_tokens\n4,1,1\n4,1,1\n", r"row 2: expected distinct ids, got 4 again"),
    "blank_id": ("id,prompt_tokens,output_tokens\n,1,1\n", r"line 2: expected an id in column id, got an empty cell"),
    "cut_line": ("prompt_tokens,output_tokens\n1,2\n3\n", r"line 3: expected 2 cells as in the header, got 1"),
    "negative_weight": ("prompt_tokens,output_tokens,weight\n1,1,-1\n", r"row 1: .*column weight, got -1"),
    "both_units": ("prompt_tokens,output_tokens,slo_s,slo_ms\n1,1,1,1\n", r"one of the columns slo_s and slo_ms"),
    "binary": ("\x00\xff\xfe,", "got|expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_tables(name: str, tmp_path: Path) -> None:
    """One defect a file, one sentence each, naming the file and the line or row."""
    text, message = BAD[name]
    path = tmp_path / f"{name}.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1") if name == "binary" else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_requests(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_LINES = {
    "cut": ('{"prompt_tokens": 1, "output_tokens": 2}\n{"prompt_tok', r"line 2: .*cut short"),
    "list": ('{"prompt_tokens": 1, "output_tokens": 2}\n[1]\n', r"line 2: expected one JSON object a line, got a list"),
    "text": ('{"prompt_tokens": "1", "output_tokens": 2}\n', r"line 1: expected a finite number under 'prompt_tokens'"),
    "nan": ('{"prompt_tokens": NaN, "output_tokens": 2}\n', r"line 1: .*got nan"),
    "boolean": ('{"prompt_tokens": true, "output_tokens": 2}\n', r"line 1: .*got true"),
    "missing": ('{"prompt_tokens": 1, "output_tokens": 2}\n{"prompt_tokens": 1}\n', r"row 2: .*output_tokens"),
    "null_id": ('{"id": null, "prompt_tokens": 1, "output_tokens": 2}\n', r"line 1: expected text or a whole number"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_malformed_json_lines(name: str, tmp_path: Path) -> None:
    """JSON Lines are refused with the line."""
    text, message = BAD_LINES[name]
    with pytest.raises(InputError, match=message):
        load_requests(write(tmp_path, text, f"{name}.jsonl"))


def test_truncated_parquet(tmp_path: Path) -> None:
    """A Parquet file cut short, and one that is none, say so in one sentence."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "r.parquet"
    parquet.write_table(pa.table({"prompt_tokens": [1, 2], "output_tokens": [3, 4]}), path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="cut short or damaged") as caught:
        load_requests(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="expected a Parquet file, got something else"):
        load_requests(write(tmp_path, "prompt_tokens,output_tokens\n1,1\n", "x.parquet"))


def test_text_columns_in_parquet(tmp_path: Path) -> None:
    """Numbers that are text are refused with the type."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"prompt_tokens": ["1"], "output_tokens": [3]}), tmp_path / "r.parquet")
    with pytest.raises(InputError, match="expected numbers in column prompt_tokens, got values of type string"):
        load_requests(tmp_path / "r.parquet")


def test_parquet_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyarrow is missing, the message names the extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = tmp_path / "r.parquet"
    path.write_bytes(b"PAR1....PAR1")
    with pytest.raises(SolverUnavailableError, match=r"gpuplan\[parquet\]"):
        load_requests(path)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"prompts": "id"}, UsageError, "no such column; the columns are id, prompt_tokens"),
        ({"prompt_tokens": "n_in"}, InputError, "expected the column 'n_in' that prompt_tokens is mapped to"),
    ],
)
def test_bad_mappings(columns: dict[str, str], error: type[GpuplanError], message: str, tmp_path: Path) -> None:
    """A mapping names our column and one the file has."""
    with pytest.raises(error, match=message):
        load_requests(write(tmp_path, TABLE), columns=columns)


def test_milliseconds_are_warned_of(tmp_path: Path) -> None:
    """Service levels of 30,000 s and whole-numbered arrivals 1,000 s apart look like milliseconds."""
    rows = "".join(f"{1000 * i},10,10,30000\n" for i in range(12))
    table = load_requests(write(tmp_path, "arrival_s,prompt_tokens,output_tokens,slo_s\n" + rows))
    warnings = unit_warnings(table)
    assert len(warnings) == 2
    assert "slo_s looks like milliseconds (the median is 30000 s)" in warnings[0]
    assert "--column arrival_ms=COLUMN" in warnings[1]
    assert time_warnings(BatchTime(step_fixed_s=10.0))[0].startswith("step_fixed_s is 10 s, which looks like")
    assert time_warnings(BatchTime(0.02, 2e-5, 0.01, 2e-4, 1e-7)) == ()


def test_quoted_cells_and_byte_order_marks(tmp_path: Path) -> None:
    """Quoted commas and line ends stay in their cell; a byte-order mark is no part of the first name."""
    text = '\ufeffprompt_tokens,output_tokens,tenant\n1,2,"a, b\nc"\nx,2,d\n'
    with pytest.raises(InputError, match="line 4: expected a number in column prompt_tokens, got 'x'"):
        load_requests(write(tmp_path, text))


def test_ids_keep_their_zeros(tmp_path: Path) -> None:
    """Ids that are not plain numbers stay text, so 7 and 007 differ."""
    table = load_requests(write(tmp_path, "id,prompt_tokens,output_tokens\n7,1,1\n007,1,1\n"))
    assert table.id.tolist() == ["7", "007"]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    """Blank lines anywhere are passed over, thousands of them too."""
    text = "\nprompt_tokens,output_tokens\n\n1,2\n" + "\n" * 3000 + "3,4\n"
    assert load_requests(write(tmp_path, text)).prompt_tokens.tolist() == [1, 3]
