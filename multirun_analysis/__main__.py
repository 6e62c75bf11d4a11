"""``python -m multirun_analysis [SOURCE ...]``: from runs to a decision."""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from har_sweep.errors import InputError, system_errors_told
from multirun_analysis.outputs import terminal
from multirun_analysis.outputs.formats import FORMATS, choose_formats

EXAMPLES = """\
examples:
  python -m multirun_analysis                                     # the runs in runs/, into report/
  python -m multirun_analysis paths.runs=elsewhere                # as har_sweep was told
  python -m multirun_analysis runs 'wandb://me/har_sweep?group=my-sweep' --accuracy val
  python -m multirun_analysis --sweep main --where 'lr<0.01'       # some of them
  python -m multirun_analysis --budget 'latency_p50<5ms' --budget 'memory<2GB'
  python -m multirun_analysis timm.csv --label model --accuracy top1 --cost param_count:min \\
      --cost infer_samples_per_sec:max
  python -m multirun_analysis wandb-report 'wandb://me/har_sweep?group=my-sweep'
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m multirun_analysis",
        description="Accuracy against cost, from runs on disk, in Weights & Biases or in anybody's table: Pareto "
        "fronts, tables, how models err differently, and what to take under a budget.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "sources", nargs="*", metavar="SOURCE",
        help="a folder of runs (default: runs; paths.runs=FOLDER is the same), perhaps some of them "
        "('runs?sweep=NAME&status=done&model=resnet18,vit_tiny&since=2026-11-01', any column), "
        "wandb://ENTITY/PROJECT?group=SWEEP (any of W&B's filters), or a .csv or .parquet; "
        "first `wandb-report` to publish the report in W&B instead of writing it",
    )  # fmt: skip
    made.add_argument(
        "--sweep", action="append", default=[], metavar="NAME",
        help="only runs of this sweep; several: of any of them",
    )  # fmt: skip
    made.add_argument(
        "--where", action="append", default=[], metavar="'COLUMN OP VALUE'",
        help="only runs for which this holds, such as 'lr<0.01', 'model in resnet18,vit_tiny', 'status==done', "
        "'started_at>=2026-11-01'; OP is one of == != < <= > >= in; null is what is missing; several: all must hold",
    )  # fmt: skip
    made.add_argument("--out", type=Path, help="folder to write to (default: report)")
    made.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="F[,F]",
        help=f"only some of {','.join(FORMATS)} (default: all)",
    )
    made.add_argument(
        "--accuracy",
        metavar="NAME[:min|:max[:UNIT]]",
        help="test (default), val, or any metric's column, such as error_rate:min, or top1:max:%% for one in percent",
    )
    made.add_argument(
        "--cost", action="append", default=[], metavar="NAME[:min|:max[:UNIT]]",
        help="a cost to draw a front for; several also give the front of all together. UNIT is what a column of a "
        "table is in, such as ms, MiB, M or Wh (any that --budget takes): latency_ms:min:ms",
    )  # fmt: skip
    made.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="LIMIT",
        help="such as 'latency_p50<5ms', 'memory<2GB', 'price<3'",
    )
    made.add_argument(
        "--label", action="append", default=[], metavar="COLUMN", help="what names a candidate (default: the model)"
    )
    made.add_argument(
        "--by", action="append", default=[], metavar="COLUMN", help="a front for each value (default: each dataset)"
    )
    made.add_argument(
        "--family", metavar="COLUMN", help="what families are compared by (default: the architecture: resnet, vit, ...)"
    )
    made.add_argument("--images", type=Path, metavar="FOLDER", help="where the images are, if not where they were")
    made.add_argument("--cache", type=Path, default=Path("cache"), help="what was pulled from W&B (default: cache)")
    made.add_argument(
        "--project", metavar="ENTITY/PROJECT", help="wandb-report: where to publish (default: the source's)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 2 for what cannot be used, or 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    publishing = options.sources[:1] == ["wandb-report"]
    try:
        if options.project and not publishing:
            raise InputError(
                f"--project {options.project} is where a report in W&B goes, and none is asked for.",
                "Write wandb-report before the sources, or leave it out.",
            )
        if publishing and (options.out or options.format):
            raise InputError(
                "wandb-report writes no files: --out and --format are of a report in a folder.",
                "Leave them out; the same command without wandb-report writes one.",
            )
        sources = [_source(word) for word in options.sources[publishing:]] or ["runs"]
        formats = choose_formats(options.format)
        with system_errors_told(), terminal.progress() as progress:
            progress("Starting", 0, None)
            # Matrices are small here: threads that wait for the next one would take more than they give.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            import pyarrow as pa

            from multirun_analysis.analysis.analysis import analyse
            from multirun_analysis.analysis.question import Question
            from multirun_analysis.sources.choice import choose
            from multirun_analysis.sources.read import read_runs
            from multirun_analysis.tables.tables import tables

            pa.set_memory_pool(pa.system_memory_pool())  # the usual one keeps for itself what it has been given back
            gc.disable()  # ten thousand runs are millions of objects: none is garbage, and looking for it takes seconds
            runs = choose(read_runs(sources, options.cache, progress), options.sweep, options.where)
            question = Question(
                options.accuracy,
                options.cost,
                options.label,
                options.by,
                options.budget,
                options.images,
                options.family,
            )
            command = shlex.join(["python", "-m", "multirun_analysis", *given])
            analysis = analyse(runs, question, command, progress)
            made = tables(analysis)
            gc.freeze()
            gc.enable()
            if publishing:
                from multirun_analysis.outputs.pictures import disputed_pictures
                from multirun_analysis.outputs.publish import publish_for

                address = publish_for(analysis, sources, options.project, options.cache)
                pictures = sum(len(images) for _, images in disputed_pictures(analysis.blocks).values())
            else:
                from multirun_analysis.outputs.write import write

                written = write(analysis, made, options.out or Path("report"), formats, progress)
    except InputError as e:
        terminal.error(e.message, e.hint)
        return 2
    except KeyboardInterrupt:
        terminal.error("Interrupted; what was written is whole.")
        return 130
    terminal.show(analysis, made)
    if publishing and pictures:
        terminal.say(f"Small pictures of disputed images that were uploaded with it: {pictures}.")
    terminal.say(address if publishing else "Written: " + ", ".join(written))
    return 0


def _source(word: str) -> str:
    """A source as it is given: bare, or as ``paths.runs=FOLDER``, as every command takes the folder of runs."""
    key, equals, folder = word.partition("=")
    if key != "paths.runs" or not equals:
        return word
    if not folder:
        raise InputError("paths.runs= names no folder.", "Write paths.runs=FOLDER, or the folder alone.")
    return os.path.expanduser(folder)


if __name__ == "__main__":
    sys.exit(main())
