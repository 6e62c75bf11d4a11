"""What a run asks SLURM for, and whether SLURM could ever give it."""

from __future__ import annotations

import re
import shutil
from typing import Any

from har_sweep.config.schema import HardwareConfig
from har_sweep.errors import InputError, nearest
from har_sweep.launch.slurm.queue import run_command, words_of
from har_sweep.spec.run_spec import RunSpec


def sbatch_options(hardware: HardwareConfig) -> dict[str, Any]:
    """What a run asks sbatch for, by sbatch's long names with underscores: its resource shape."""
    slurm = hardware.slurm
    gpus = slurm.gpus if slurm.gpus is not None else hardware.device_count if hardware.device == "cuda" else 0
    asked: dict[str, Any] = {
        "job_name": "har_sweep",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": slurm.cpus,
        "mem": f"{round(1024 * slurm.memory_gib)}M",
        "gpus_per_node": None if not gpus else f"{slurm.gpu_type}:{gpus}" if slurm.gpu_type else gpus,
        "time": slurm.time_minutes,
        "requeue": True,
    }
    asked |= {name.replace("-", "_"): value for name, value in slurm.extra.items()}
    return {name: value for name, value in asked.items() if value is not None and value is not False}


def sbatch_flags(asked: dict[str, Any]) -> list[str]:
    """``asked`` as it stands on a command line."""
    names = {name: "--" + name.replace("_", "-") for name in asked}
    return [names[name] if value is True else f"{names[name]}={value}" for name, value in asked.items()]


def resource_shapes(specs: list[RunSpec]) -> list[tuple[dict[str, Any], list[RunSpec]]]:
    """The runs by what they ask for; each group is one job array."""
    groups: dict[str, tuple[dict[str, Any], list[RunSpec]]] = {}
    for spec in specs:
        slurm = spec.config.hardware.slurm
        asked = sbatch_options(spec.config.hardware)
        key = str((asked, slurm.setup, slurm.python, slurm.signal_seconds, slurm.array_parallelism))
        groups.setdefault(key, (asked, []))[1].append(spec)
    return list(groups.values())


def check_resources(hardware: list[HardwareConfig]) -> None:
    """Ask the controller whether it could ever run what is asked for.

    Raises
    ------
    InputError
        with the controller's words and what there is instead; nothing was submitted.
    """
    if not hardware:
        return
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise InputError(
            "There is no sbatch on this machine.",
            "Give this command where jobs are submitted (the cluster's login node), or run here with hardware=auto.",
        )
    for asked in {str(asked): asked for asked in map(sbatch_options, hardware)}.values():
        test = run_command("sbatch", "--test-only", *sbatch_flags(asked), "--wrap=true")
        if test.returncode:
            words = re.sub(r"^(sbatch|allocation failure|error|Batch job submission failed): ", "", words_of(test))
            given = " ".join(flag for flag in sbatch_flags(asked) if not flag.startswith("--job-name"))
            raise InputError(f"SLURM would not take the runs: {words} (asked for: {given}).", remedy(words, asked))


def remedy(words: str, asked: dict[str, Any]) -> str:
    """What to do about a refusal."""
    listed = run_command("sinfo", "--noheader", "--format=%R|%l|%c|%m|%G|%D")
    partitions = [line.split("|") for line in listed.stdout.splitlines()]
    known = ", ".join(
        f"{name} ({nodes} nodes of {cpus} CPUs, {memory} MB, {gres}, at most {limit})".replace(", (null)", "")
        for name, limit, cpus, memory, gres, nodes in partitions
    )
    if "ontact" in words or not partitions:
        return "Is the SLURM controller up (scontrol ping)? Give the same command again when it answers."
    if "partition" in words:
        near = nearest(str(asked.get("partition")), [name for name, *_ in partitions])
        return f"{near} Set hardware.slurm.partition; there are: {known}.".strip()
    for word in ("account", "qos", "license", "time limit"):
        if word in words.lower():
            return (
                f"Set hardware.slurm.{word.replace(' limit', '_minutes')}; sacctmgr and your site's pages know which."
            )
    return f"Ask for less, or for another partition (hardware.slurm.*); there are: {known}."
