"""``gpuplan deploy`` from the command line."""

from __future__ import annotations

import json

import pytest

SMALL = ("deploy", "llama-3.1-8b", "8xl4", "--tensor-parallel", "1,2")


def test_deploy_verify_export(run, tmp_path):
    """A deployment is written, verified, exported a server a replica, and planned again from itself."""
    outcome = run(*SMALL, "-o", "d.json")
    assert outcome.exit_code == 0, outcome.stderr
    assert "optimal: no better deployment exists" in outcome.stdout
    assert "tp 2 × pp 1" in outcome.stdout.replace("\N{NO-BREAK SPACE}", " ")
    assert run("verify", "d.json").exit_code == 0
    text = run("export", "d.json", "--to", "vllm").stdout
    assert text.count("vllm serve") == text.count("# replica") > 1
    assert run("export", "d.json", "--to", "vllm", "-o", "serve.sh").exit_code == 0
    assert (tmp_path / "serve-replica0.sh").read_text("utf-8").startswith("export CUDA")
    again = run(*SMALL, "--current", "d.json")
    assert "the current deployment stays" in again.stdout


def test_json_is_one_document(run):
    """With --format json stdout holds the deployment and nothing else."""
    outcome = run(*SMALL, "--format", "json", "--demand-rps", "5")
    document = json.loads(outcome.stdout)
    assert document["schema"] == "gpuplan/deployment/1"
    assert document["inputs"]["options"]["objective"] == {"name": "devices", "demand_rps": 5.0}
    assert document["metrics"]["requests_per_s"] >= 5.0


def test_infeasible_says_why(run):
    """A model too large ends with 4, one line, and the reasons in JSON."""
    outcome = run("deploy", "llama-3.1-405b", "8xl4", "--format", "json")
    assert outcome.exit_code == 4
    assert "more than the 8 devices have free together" in outcome.stderr
    assert json.loads(outcome.stdout)["status"] == "infeasible"


TABLE = "schema: gpuplan/cost-table/1\nname: bench\ndevice_kind: l4-24gb\nmodel: llama-3.1-8b\ndata: bench.csv\n"
ROWS = (
    "covers,phase,tokens,batch,time\n"
    "layer:decoder,prefill,1,,0.001\nlayer:decoder,prefill,65536,,1.4\n"
    "layer:decoder,decode,,1,0.0018\nlayer:decoder,decode,,64,0.004\n"
)


def test_measured_costs_end_to_end(run, refused, tmp_path):
    """With a table of measured layers the plan says so, follows it, verifies, and is planned again from its file."""
    (tmp_path / "bench.yaml").write_text(TABLE, "utf-8")
    (tmp_path / "bench.csv").write_text(ROWS, "utf-8")
    asked = ("deploy", "llama-3.1-8b", "8xl4", "--costs", "bench.yaml", "--batch", "16")
    assert "--costs-fallback" in refused(3, *asked)  # the table has no embedding and no head
    asked = (*asked, "--costs-fallback", "--tensor-parallel", "1")
    outcome = run(*asked, "-o", "d.json")
    assert outcome.exit_code == 0, outcome.stderr
    document = json.loads((tmp_path / "d.json").read_text("utf-8"))
    replica = document["replicas"][0]
    # Between batch 1 and 64 a decoder layer's step at 16 takes 1.8 + 15/63·2.2 ms.
    step = 0.0018 + 15 / 63 * 0.0022
    held = replica["stages"][0]["layers"]
    decoders = min(held["stop"], 33) - max(held["start"], 1)
    assert replica["stages"][0]["decode_s"] == pytest.approx(decoders * step, rel=0.2)
    assert document["provenance"]["interpolated"] > 0.8
    assert run("verify", "d.json").exit_code == 0
    document["replicas"][0]["stages"][0]["decode_s"] *= 1.01
    (tmp_path / "wrong.json").write_text(json.dumps(document), "utf-8")
    assert run("verify", "wrong.json").exit_code != 0
    assert "the current deployment stays" in run(*asked, "--current", "d.json").stdout


def test_planned_again_and_again(run, tmp_path):
    """From its own answer a deployment comes back as it is, twice; a demand within the hysteresis leaves it, too."""
    asked = ("deploy", "llama-3.1-8b", "8xl4", "--demand-rps")

    def places(name):
        document = json.loads((tmp_path / name).read_text("utf-8"))
        stages = [[stage["devices"] for stage in replica["stages"]] for replica in document["replicas"]]
        return stages, document.get("changes", {}).get("total_moved_bytes", 0.0)

    assert run(*asked, "10", "-o", "a.json").exit_code == 0
    for demand, before, after in (("10", "a", "b"), ("10", "b", "c"), ("9.8", "c", "d"), ("10", "d", "e")):
        assert run(*asked, demand, "--current", f"{before}.json", "-o", f"{after}.json").exit_code == 0
        assert places(f"{after}.json") == (places("a.json")[0], 0.0)
        assert run("verify", f"{after}.json").exit_code == 0


@pytest.mark.parametrize(
    ("file", "kind"), [("dgx_h100_8gpu_12nic.txt", "h100-sxm5-80gb"), ("v100_4gpu_nv1_nv2_1nic.txt", "v100-sxm2-32gb")]
)
def test_flow_and_replicas_on_a_real_host(file, kind, run, shared_data):
    """A captured ``nvidia-smi topo -m`` is planned as a flow and as replicas; both verify."""
    words = ("deploy", "llama-3.1-8b", shared_data / "topology" / "nvidia-smi-topo" / file, "--gpu", kind)
    assert run(*words, "--method", "flow", "-o", "flow.json").exit_code == 0
    assert run("verify", "flow.json", "--problem", "flow.problem.json").exit_code == 0
    assert run(*words, "-o", "d.json").exit_code == 0
    assert run("verify", "d.json").exit_code == 0


def test_nothing_half_written(refused):
    """A folder that is not there, and inputs that are no deployment, leave no file behind."""
    assert "make it first" in refused(2, *SMALL, "-o", "nowhere/d.json")
    assert "did you mean 8xl4?" in refused(2, *SMALL[:2], "8xl4x", "-o", "d.json")


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (2, ("--objective", "speed")),
        (2, ("--objective", "devices")),
        (2, ("--demand-rps", "-1")),
        (2, ("--batch", "0")),
        (2, ("--move-cost", "nan")),
        (2, ("--tensor-parallel", "5")),
        (2, ("--for", "tgi")),
        (3, ("--current", "missing.json")),
        (4, ("--ttft-slo", "0.000001")),
        (4, ("--demand-rps", "1000")),
    ],
)
def test_refusals(code, options, refused):
    """Bad values, missing files and questions without an answer end with one line and a code of their own."""
    assert refused(code, *SMALL, *options)
