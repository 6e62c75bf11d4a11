"""What a run asks SLURM for, and whether SLURM could ever give it."""

from __future__ import annotations

import re
import shutil
from typing import Any

from har_sweep.config.schema import HardwareConfig, SlurmLauncher
from har_sweep.errors import InputError, nearest
from har_sweep.launch.slurm.queue import run_command, words_of
from har_sweep.spec.run_spec import RunSpec


def sbatch_options(slurm: SlurmLauncher, hardware: HardwareConfig) -> dict[str, Any]:
    """What a run asks sbatch for, by sbatch's long names with underscores: its resource shape."""
    no_gpus = hardware.device != "cuda" or "gpu" in (slurm.gres or "")
    gpus = slurm.gpus_per_node or (None if no_gpus else hardware.device_count)
    asked: dict[str, Any] = {
        "job_name": slurm.name,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "exclude": slurm.exclude,
        "comment": slurm.comment,
        "gres": slurm.gres,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": slurm.cpus_per_task,
        "mem": f"{round(1024 * slurm.mem_gb)}M",
        "gpus_per_node": None if gpus == "0" else gpus,
        "time": slurm.timeout_min,
        "requeue": True,
    }
    asked |= {name.replace("-", "_"): value for name, value in slurm.additional_parameters.items()}
    return {name: value for name, value in asked.items() if value is not None and value is not False}


def sbatch_flags(asked: dict[str, Any]) -> list[str]:
    """``asked`` as it stands on a command line."""
    names = {name: "--" + name.replace("_", "-") for name in asked}
    return [names[name] if value is True else f"{names[name]}={value}" for name, value in asked.items()]


def resource_shapes(specs: list[RunSpec]) -> list[tuple[dict[str, Any], list[RunSpec]]]:
    """The runs by what they ask for; each group is one job array."""
    groups: dict[str, tuple[dict[str, Any], list[RunSpec]]] = {}
    for spec in specs:
        assert spec.slurm is not None
        asked = sbatch_options(spec.slurm, spec.config.hardware)
        groups.setdefault(str((asked, spec.slurm)), (asked, []))[1].append(spec)
    return list(groups.values())


def check_resources(shapes: list[dict[str, Any]]) -> None:
    """Ask the controller whether it could ever run what is asked for, each of ``sbatch_options``.

    Raises
    ------
    InputError
        with the controller's words and what there is instead; nothing was submitted.
    """
    if not shapes:
        return
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise InputError(
            "There is no sbatch on this machine.",
            "Give this command where jobs are submitted (the cluster's login node), or run here with hardware=auto.",
        )
    for asked in {str(asked): asked for asked in shapes}.values():
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
        return f"{near} Set hydra.launcher.partition; there are: {known}.".strip()
    keys = {
        "account": "account",
        "qos": "qos",
        "license": "additional_parameters.licenses",
        "time limit": "timeout_min",
    }
    for word, key in keys.items():
        if word in words.lower():
            return f"Set hydra.launcher.{key}; sacctmgr and your site's pages know which."
    return f"Ask for less, or for another partition (hydra.launcher.*); there are: {known}."
