"""Whatever stands in a file: a table, or one of gpuplan's own errors, never another exception."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.errors import GpuplanError
from gpuplan.profiles.fitting import fit_runs, read_runs
from gpuplan.profiles.link_fits import fit_link, read_transfers
from gpuplan.profiles.tables.readers import load_cost_source

CELLS = st.sampled_from(
    ["", "1", "2", "0", "-1", "1e300", "1e-300", "5e-324", "nan", "inf", "x", "True", "decode", "prefill", "qkv_proj",
     "layer:decoder", "a+b", "0x10", "１"]
)  # fmt: skip
HEADERS = st.sampled_from(
    [
        "covers,phase,tokens,time", "covers,batch,context,time", "layer,tokens,time_us", "batch,prompt,output,time",
        "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel",
        "time_stats.send_recv.median,size,num_workers,devices_per_node,collective",
        "time_stats.emb.median,num_tensor_parallel_workers,n_embd,n_head,n_kv_head,num_tokens",
    ]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.just(10**400), st.floats(), st.text(max_size=5),
    st.sampled_from(["gpuplan/cost-table/1", "gpuplan/fitted-costs/1", "helix", "times.csv", "us", ".", ".."]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["schema", "name", "device_kind", "data", "model", "shape", "columns", "time_unit", "tensor_parallel", "layout",
     "prefill", "decode", "power_cap_w", "chunk_tokens", "notes", "opt-13b"]
)  # fmt: skip


def is_read_or_refused(read: Callable[[], object]) -> bool:
    """Return whether a reader hands something over, or raises an error of gpuplan's own whose message is one line."""
    try:
        return read() is not None
    except GpuplanError as error:
        message = str(error)
        return bool(message.strip()) and "\n" not in message


@settings(max_examples=150, deadline=None)
@given(HEADERS, st.lists(st.lists(CELLS, min_size=1, max_size=9), max_size=6), st.booleans())
def test_any_csv(header: str, rows: list[list[str]], square: bool) -> None:
    """Cells of every sort under every header that some reader knows."""
    width = header.count(",") + 1
    lines = [",".join((row * width)[:width] if square else row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.csv"
        path.write_text("\n".join([header, *lines]), encoding="utf-8")
        manifest = {"schema": "gpuplan/cost-table/1", "name": "x", "device_kind": "l4-24gb", "data": "times.csv"}
        (Path(folder) / "x.yaml").write_text(yaml.safe_dump(manifest))
        for file in ("times.csv", "x.yaml"):
            assert is_read_or_refused(lambda file=file: load_cost_source(Path(folder) / file))  # type: ignore[misc]
        assert is_read_or_refused(lambda: fit_runs(read_runs(path)))
        assert is_read_or_refused(lambda: [fit_link(transfers) for transfers in read_transfers(path)])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=8), st.sampled_from(["yaml", "json"]))
def test_any_document(document: dict[str, Any], ending: str) -> None:
    """Keys that readers know with values of every sort, as YAML and JSON."""
    document = {"schema": "gpuplan/cost-table/1", **document}
    text = json.dumps(document) if ending == "json" else yaml.safe_dump(document)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "times.csv").write_text("covers,tokens,time\nqkv_proj,1,1\n")
        path = Path(folder) / f"profiler-a100-80g.{ending}"
        path.write_text(text, encoding="utf-8")
        assert is_read_or_refused(lambda: load_cost_source(path))


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="0123456789 .-+eE,#\n\tfloatsumNA/nan:[]{}\"'", max_size=200),
    st.sampled_from(["csv", "yaml", "json", "txt"]),
)
def test_any_text(text: str, ending: str) -> None:
    """Text made of what such files are made of."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{ending}"
        path.write_text(text, encoding="utf-8")
        assert is_read_or_refused(lambda: load_cost_source(path))
        assert is_read_or_refused(lambda: [fit_link(transfers) for transfers in read_transfers(path)])
