"""The command line: which commands there are, and how errors and Ctrl-C become a line and an exit code.

Results go to stdout (with --json as one JSON object), progress and errors to stderr.
Exit code 0: done; 1: our error; 2: wrong usage; 130: interrupted.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mbert import ConfigError, MbertError, __version__
from mbert.commands.convert import convert
from mbert.commands.demo import demo
from mbert.commands.doctor import doctor
from mbert.commands.eval import evaluate
from mbert.commands.finetune import finetune
from mbert.commands.ingest import ingest
from mbert.commands.labels import labels
from mbert.commands.options import is_first_process
from mbert.commands.pretrain import pretrain
from mbert.commands.runs import runs
from mbert.commands.shard import shard
from mbert.commands.synthesize import synthesize
from mbert.commands.verify import verify


class _Group(TyperGroup):
    """The single place that turns our errors and Ctrl-C into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MbertError as exc:
            if is_first_process() or not exc.is_told:
                typer.secho(f"error: {exc}", fg="red", err=True)
            raise typer.Exit(2 if isinstance(exc, ConfigError) else 1) from exc
        except KeyboardInterrupt:
            typer.secho("interrupted: run the same command again to go on", fg="yellow", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Micron-BERT (μ-BERT) for micro-expressions: face video to aligned frame-pair shards to honest scores.",
)
train = typer.Typer(no_args_is_help=True, help="Train μ-BERT on pair shards.")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mbert {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(ingest)
app.command()(labels)
app.command()(shard)
app.command()(verify)
app.add_typer(train, name="train")
train.command()(pretrain)
train.command()(finetune)
app.command("eval")(evaluate)
app.command()(runs)
app.command()(convert)
app.command()(synthesize)
app.command()(demo)
app.command()(doctor)


def main() -> None:
    """Entry point of the `mbert` command."""
    app()


if __name__ == "__main__":
    main()
