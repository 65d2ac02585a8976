"""The journey with the installed program: topo file → map → verify → export, and what goes to which stream."""

from __future__ import annotations

import json
import re

import pytest

A100 = ("--gpu", "a100-sxm4-80gb")


def test_topo_file_to_paste(program, examples, tmp_path):
    """The shipped example is planned, verified and exported by the installed program."""
    config, topo = examples / "dgx-a100" / "config.json", examples / "dgx-a100" / "topo.txt"
    planned = program("map", config, topo, *A100, "-o", "plan.json")
    assert planned.returncode == 0, planned.stderr
    assert "optimal: no better map exists (proven" in planned.stdout
    assert "gpuplan verify plan.json" in planned.stdout
    verified = program("verify", "plan.json")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "every number and constraint holds" in verified.stdout
    vllm = program("export", "plan.json", "--to", "vllm")
    assert vllm.returncode == 0
    assert "VLLM_PP_LAYER_PARTITION=" in vllm.stdout
    accelerate = program("export", "plan.json", "--to", "accelerate", "-o", "device_map.json")
    assert accelerate.returncode == 0, accelerate.stderr
    device_map = json.loads((tmp_path / "device_map.json").read_text("utf-8"))
    assert device_map["model.embed_tokens"] == 0
    assert "model.layers.79" in device_map


def test_piped_output_has_no_control_codes(program):
    """Off a terminal there is no colour and no cursor movement, and no line is wider than 80 columns."""
    done = program("map", "llama-3.1-70b", "dgx-a100", "--explain")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""


def test_map_json_is_a_plan(program, tmp_path):
    """``map --format json`` prints the plan itself: saved from a pipe it verifies, and it equals the file."""
    done = program("map", "llama-3.1-70b", "dgx-a100", "--format", "json", "-o", "plan.json")
    assert done.stdout == (tmp_path / "plan.json").read_text("utf-8")
    (tmp_path / "piped.json").write_text(done.stdout, encoding="utf-8")
    assert program("verify", "piped.json").returncode == 0


def test_same_question_gives_the_same_bytes(program, tmp_path):
    """Two runs write identical files."""
    for name in ("a.json", "b.json"):
        assert program("map", "llama-3.1-8b", "4x3090-uellm", "-o", name, "--objective", "throughput").returncode == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_no_temporary_files_stay(run, tmp_path):
    """A file is written through a temporary name that does not stay."""
    assert run("map", "llama-3.1-8b", "dgx-a100", "-o", "plan.json", "--stats", "stats.json").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "stats.json"]


def test_output_replaces_a_file_whole(run, write):
    """An older plan is replaced."""
    path = write("plan.json", "old")
    assert run("map", "llama-3.1-8b", "dgx-a100", "-o", path).exit_code == 0
    assert json.loads(path.read_text("utf-8"))["schema"] == "gpuplan/device-map/1"


def test_a_failed_run_keeps_the_older_file(run, write):
    """On exit 4 an older plan at -o stays as it was."""
    path = write("plan.json", "old")
    assert run("map", "llama-3.1-405b", "4x3090-uellm", "-o", path).exit_code == 4
    assert path.read_text("utf-8") == "old"


def test_output_may_be_a_device(run):
    """``-o /dev/null`` writes through, it never replaces the device."""
    assert run("map", "llama-3.1-8b", "dgx-a100", "-o", "/dev/null").exit_code == 0
    with open("/dev/null", "rb") as device:
        assert device.read() == b""


@pytest.mark.parametrize("objective", ["latency", "throughput", "efficiency", "balanced", "kv-capacity"])
def test_every_objective_is_planned_and_verified(run, objective):
    """Each objective gives a proven plan that verifies and says what it is worth."""
    outcome = run("map", "llama-3.1-70b", "8xl4", "--dtype", "fp8", "--objective", objective, "-o", "plan.json")
    assert outcome.exit_code == 0, outcome.stderr
    assert "optimal: no better map exists (proven, bound = " in outcome.stdout
    assert run("verify", "plan.json").exit_code == 0


def test_options_reach_the_plan(run, tmp_path):
    """Workload, reserve, return hop, device limit and exclusions stand in the plan's inputs."""
    outcome = run(
        "map", "llama-3.1-70b", "dgx-a100", "--batch", "2", "--prompt", "300", "--output", "40", "--reserve", "2GiB",
        "--no-return-hop", "--max-devices", "3", "--exclude", "host0/gpu0", "--memory-fraction", "0.8",
        "--objective", "throughput", "--micro-batches", "stages", "-o", "plan.json",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    plan = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    # As many micro-batches as stages: at most 3 devices.
    assert plan["workload"] == {"batch": 2, "prompt_tokens": 300, "output_tokens": 40, "micro_batches": 3}
    options = plan["inputs"]["options"]
    assert options["reserve_bytes"] == 2 << 30
    assert options["return_hop"] is False
    assert options["max_devices"] == 3
    assert plan["stages"][-1]["hop"] is None
    assert plan["topology"]["num_devices"] == 7
    # 0.8 of the 81,920 MiB the driver reports.
    assert plan["stages"][0]["memory"]["available_bytes"] == pytest.approx(0.8 * (81920 << 20), rel=1e-6)


def test_balance_reaches_the_plan(run, tmp_path):
    """--balance sets the weights of the balanced objective."""
    words = ("--objective", "balanced", "--balance", "3:2", "-o", "p.json")
    assert run("map", "llama-3.1-8b", "dgx-a100", *words).exit_code == 0
    objective = json.loads((tmp_path / "p.json").read_text("utf-8"))["inputs"]["options"]["objective"]
    assert (objective["latency_weight"], objective["devices_weight"]) == (3.0, 2.0)


def test_for_runtime_keeps_to_what_it_can_hold(run, tmp_path):
    """--for vllm: every stage holds a decoder layer, so the export works."""
    words = ("--dtype", "fp8", "--objective", "throughput", "--for", "vllm", "-o", "p.json")
    outcome = run("map", "llama-3.1-70b", "8xl4", *words)
    assert outcome.exit_code == 0, outcome.stderr
    stages = json.loads((tmp_path / "p.json").read_text("utf-8"))["stages"]
    assert all(any(".layers." in module for module in stage["modules"]) for stage in stages)
    assert run("export", "p.json", "--to", "vllm").exit_code == 0


def test_stats_hold_the_times_the_plan_does_not(run, tmp_path):
    """--stats carries wall time and work; the plan has no wall times."""
    assert run("map", "llama-3.1-8b", "dgx-a100", "--stats", "stats.json", "-o", "plan.json").exit_code == 0
    stats = json.loads((tmp_path / "stats.json").read_text("utf-8"))
    assert stats["status"] == "optimal"
    assert stats["wall_time_s"] >= 0.0
    assert "wall" not in (tmp_path / "plan.json").read_text("utf-8")


def test_written_model_is_solved_alike(run, tmp_path):
    """--write-model gives a problem file whose solution has the plan's objective."""
    assert run("map", "llama-3.1-70b", "dgx-a100", "--write-model", "problem.json", "-o", "plan.json").exit_code == 0
    assert run("solve", "problem.json", "-o", "solution.json").exit_code == 0
    plan = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    solution = json.loads((tmp_path / "solution.json").read_text("utf-8"))
    assert solution["objective"] == pytest.approx(plan["result"]["objective"], rel=1e-9)


@pytest.mark.parametrize("suffix", [".lp", ".mps"])
def test_written_milp(run, tmp_path, suffix):
    """--write-model writes the mixed-integer programme too."""
    outcome = run("map", "llama-3.1-8b", "4x3090-uellm", "--write-model", f"model{suffix}")
    assert outcome.exit_code == 0, outcome.stderr
    assert (tmp_path / f"model{suffix}").stat().st_size > 0


def test_warm_start_is_read(run):
    """A plan can be the start of the next search."""
    assert run("map", "llama-3.1-70b", "dgx-a100", "-o", "plan.json").exit_code == 0
    outcome = run("map", "llama-3.1-70b", "dgx-a100", "--warm-start", "plan.json", "-o", "again.json")
    assert outcome.exit_code == 0, outcome.stderr


def test_baseline_as_solver_says_that_no_bound_is_known(run):
    """A rule of thumb gives a plan without a bound, and the output says so."""
    outcome = run("map", "llama-3.1-70b", "dgx-a100", "--solver", "even")
    assert outcome.exit_code == 0, outcome.stderr
    assert "no bound is known" in outcome.stdout
    assert "optimal" not in outcome.stdout


def test_rule_without_a_plan_is_exit_five(run, tmp_path):
    """A rule that finds no plan where one exists ends with 5, its reason, and no file."""
    # 11 fp32 layers take 10.2 of the smallest card's 10.8 GiB at batch 1; a sequence more adds 11·1152·4 KiB = 50 MiB.
    words = ("llama-3.1-8b", "3-unlike", "--dtype", "fp32", "--batch", "32", "-o", "plan.json")
    assert run("map", *words, "--solver", "even", "--format", "json").exit_code == 5
    outcome = run("map", *words, "--solver", "even")
    assert outcome.exit_code == 5, outcome.stdout + outcome.stderr
    assert outcome.stdout == ""
    assert "even" in outcome.stderr
    assert not (tmp_path / "plan.json").exists()


def test_pareto_front_is_written_drawn_and_verified(run, tmp_path):
    """Pareto writes a front that verifies against its problem, and a picture that is XML."""
    from xml.etree import ElementTree

    outcome = run(
        "pareto", "chatglm2-6b", "mixed-3090-4090-a100", "-o", "front.json", "--plot", "front.svg",
        "--write-model", "problem.json",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    assert "complete: no point is missing (proven" in outcome.stdout
    front = json.loads((tmp_path / "front.json").read_text("utf-8"))
    latencies = [point["latency_s"] for point in front["points"]]
    assert latencies == sorted(latencies)
    assert run("verify", "front.json", "--problem", "problem.json").exit_code == 0
    circles = ElementTree.parse(tmp_path / "front.svg").getroot().findall(".//{*}circle")
    assert len(circles) >= len(front["points"])


def test_pareto_json(run):
    """Pareto --format json prints the front's document and nothing else."""
    outcome = run("pareto", "llama-3.1-8b", "4x3090-uellm", "--format", "json")
    assert json.loads(outcome.stdout)["schema"] == "gpuplan/placement-solution/1"
    assert "proven" in outcome.stderr


def test_solve_prints_the_solution(run, examples, write):
    """Solve prints the document on stdout and the table on stderr; saved, it verifies."""
    problem = examples / "three-unlike-devices" / "problem.json"
    outcome = run("solve", problem)
    document = json.loads(outcome.stdout)
    assert "optimal: no better solution exists" in outcome.stderr
    # Four, two and six layers: 2/273 and 6/800 balance; the slow device first or in the middle makes no difference.
    assert {stage["device"]: stage["stop"] - stage["start"] for stage in document["stages"]} == {
        "workstation/gpu0": 4,
        "laptop/gpu0": 2,
        "desktop/gpu0": 6,
    }
    assert run("verify", write("solution.json", document), "--problem", problem).exit_code == 0


def test_solve_for_latency_leaves_the_slow_device_out(run, write, three_devices):
    """The same problem for latency: [4, 0, 8]."""
    three_devices["objective"] = {"name": "latency"}
    document = json.loads(run("solve", write("problem.json", three_devices)).stdout)
    assert {stage["device"]: stage["stop"] - stage["start"] for stage in document["stages"]} == {
        "workstation/gpu0": 4,
        "desktop/gpu0": 8,
    }


def test_solve_finds_fronts_and_starts_warm(run, write, three_devices):
    """A problem that asks for the front gets points; a solution can start the next search."""
    path = write("problem.json", three_devices)
    assert run("solve", path, "-o", "solution.json").exit_code == 0
    assert run("solve", path, "--warm-start", "solution.json").exit_code == 0
    three_devices["front"] = True
    outcome = run("solve", write("front.json", three_devices))
    assert len(json.loads(outcome.stdout)["points"]) >= 2


def test_verify_as_json(run, write, three_devices):
    """Verify --format json prints what does not hold, with the place."""
    problem = write("problem.json", three_devices)
    assert run("solve", problem, "-o", "solution.json").exit_code == 0
    assert json.loads(run("verify", "solution.json", "--problem", problem, "--format", "json").stdout) == {
        "ok": True,
        "problems": [],
    }
    document = json.loads(run("solve", problem).stdout)
    document["objective"] *= 0.9
    outcome = run("verify", write("edited.json", document), "--problem", problem, "--format", "json")
    report = json.loads(outcome.stdout)
    assert (outcome.exit_code, report["ok"]) == (6, False)
    assert any(finding["place"] == "$.objective" for finding in report["problems"])


@pytest.mark.parametrize("what", ["gpus", "models", "clusters", "solvers", "runtimes"])
def test_lists(run, what):
    """Each list prints as a table within 80 columns and as JSON."""
    table = run("list", what)
    assert table.exit_code == 0
    assert max(map(len, table.stdout.splitlines())) <= 80
    rows = json.loads(run("list", what, "--format", "json").stdout)[what]
    assert all(row["name"].split("-")[0] in table.stdout for row in rows)


def test_model_show(run):
    """Model show gives layers and totals, as a table and as JSON."""
    text = run("model", "show", "llama-3.1-70b").stdout
    assert re.search(r"1-80 +decoder", text)
    assert "70.55 B parameters" in text
    document = json.loads(run("model", "show", "llama-3.1-70b", "--format", "json").stdout)
    assert document["num_layers"] == len(document["layers"]) == 82
    # 2·8 KV heads·128·2 B in each of 80 layers.
    assert document["kv_bytes_per_token"] == 2 * 8 * 128 * 2 * 80


def test_topology_show(run):
    """Topology show gives devices, matrix, routes and islands; JSON has the documented keys."""
    text = run("topology", "show", "dgx-a100").stdout
    assert "8 devices on 1 host" in text
    assert "a100-sxm4-80gb" in text
    assert max(map(len, text.splitlines())) <= 80
    document = json.loads(run("topology", "show", "dgx-a100", "--format", "json").stdout)
    assert set(document) >= {"devices", "links", "pairs", "islands", "classes"}
    assert len(document["pairs"]) == 8 * 7 / 2


def test_topology_convert_and_replicate(run, examples, tmp_path):
    """A matrix becomes a cluster file, alone or as two hosts on a fabric, that maps like its source."""
    topo = examples / "dgx-a100" / "topo.txt"
    assert run("topology", "convert", topo, *A100, "-o", "one.yaml").exit_code == 0
    outcome = run("topology", "convert", topo, *A100, "-o", "two.json", "--hosts", "2", "--fabric", "infiniband-ndr")
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads((tmp_path / "two.json").read_text("utf-8"))["schema"] == "gpuplan/topology/1"
    assert "16 devices on 2 hosts" in run("topology", "show", "two.json").stdout
    direct = json.loads(run("map", "llama-3.1-70b", topo, *A100, "--format", "json").stdout)
    converted = json.loads(run("map", "llama-3.1-70b", "one.yaml", "--format", "json").stdout)
    assert converted["metrics"] == direct["metrics"]


def test_hosts_need_a_fabric(refused):
    """Hosts without a network between them, or a network without hosts, are refused."""
    assert "--fabric" in refused(2, "topology", "convert", "dgx-a100", "-o", "two.yaml", "--hosts", "2")
    assert "--hosts" in refused(2, "topology", "convert", "dgx-a100", "-o", "two.yaml", "--fabric", "infiniband-ndr")


def test_compare_runs_every_solver(run, examples):
    """Compare answers with all that ships, each verified; the exact ones agree and no rule beats them."""
    problem = examples / "three-unlike-devices" / "problem.json"
    rows = json.loads(run("compare", problem, "--format", "json").stdout)["solvers"]
    assert {"auto", "dp", "even", "memory", "accelerate-sequential", "accelerate-balanced", "bgs", "published"} <= {
        row["name"] for row in rows
    }
    assert all(row["verified"] for row in rows if row["objective"] is not None)
    best = min(row["objective"] for row in rows if row["objective"] is not None)
    assert all(row["objective"] == pytest.approx(best, rel=1e-6) for row in rows if row["status"] == "optimal")


def test_compare_model_on_cluster_as_table(run):
    """The table has one line a solver within 80 columns, the best is named, and no gap is claimed for rules."""
    outcome = run("compare", "llama-3.1-70b", "dgx-a100", "--solvers", "auto,even,bgs", "--objective", "efficiency")
    assert outcome.exit_code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.search(r"auto +optimal +2 devices, .* best", outcome.stdout)
    # Eight devices instead of two.
    assert re.search(r"even +a plan +8 devices, .* 300.0 %", outcome.stdout)


def test_compare_without_any_plan_is_infeasible(run):
    """When nothing fits, the exit code is 4 and the reason is said once."""
    outcome = run("compare", "llama-3.1-405b", "4x3090-uellm", "--solvers", "auto,dp,even")
    assert outcome.exit_code == 4
    assert outcome.stdout.count("short in total") == 1
    assert "auto, dp: " in outcome.stdout


def test_compare_names_what_it_takes(refused, examples):
    """One word that is no problem file, unknown solvers and options without a meaning are usage errors."""
    problem = examples / "three-unlike-devices" / "problem.json"
    assert "MODEL and CLUSTER" in refused(2, "compare", "llama-3.1-8b")
    assert "MODEL and CLUSTER" in refused(2, "compare")
    assert "did you mean even" in refused(2, "compare", problem, "--solvers", "evn")
    assert "do not apply" in refused(2, "compare", problem, "--batch", "2")


def test_gpu_info_supplies_kinds_and_memory(run, examples, write, tmp_path):
    """The CSV of nvidia-smi says kinds, memory and power limits where the matrix does not."""
    rows = "\n".join(
        f"{index}, NVIDIA A100-SXM4-80GB, 81920 MiB, 81000 MiB, {300 if index == 0 else 400}.00 W" for index in range(8)
    )
    header = "index, name, memory.total [MiB], memory.free [MiB], power.limit [W]\n"
    info = write("gpus.csv", header + rows + "\n")
    topo = examples / "dgx-a100" / "topo.txt"
    outcome = run("map", "llama-3.1-70b", topo, "--gpu-info", info, "-o", "plan.json")
    assert outcome.exit_code == 0, outcome.stderr
    plan = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    # The first GPU's power cap slows it, so the plan starts elsewhere.
    assert all(stage["devices"] != ["host0/gpu0"] for stage in plan["stages"])


def test_catalog_adds_kinds(run, write, tmp_path):
    """--catalog: a cluster file may use GPU kinds of a folder of one's own."""
    (tmp_path / "mine" / "clusters").mkdir(parents=True)
    (tmp_path / "mine" / "clusters" / "den.yaml").write_text(
        "schema: gpuplan/topology/1\nname: den\ndevices:\n  - {kind: l4-24gb, count: 2}\ndefault_link: PHB\n", "utf-8"
    )
    outcome = run("topology", "show", "den", "--catalog", "mine")
    assert outcome.exit_code == 0, outcome.stderr
    assert "den: 2 devices on 1 host" in outcome.stdout
    assert "den" in run("list", "clusters", "--catalog", "mine").stdout


def test_python_dash_m_is_the_program(program):
    """``python -m gpuplan --version`` is the program itself."""
    assert program("--version").stdout.startswith("gpuplan ")
