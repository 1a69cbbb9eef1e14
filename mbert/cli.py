"""The command line: the commands, and how errors and Ctrl-C become a line and an exit code.

Results go to stdout (with --json as one JSON object, errors too), progress and errors to stderr.
Exit code 0: done; 1: our error; 2: wrong usage; 130: interrupted.
"""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mbert import ConfigError, MbertError, __version__
from mbert.api import is_first_process
from mbert.commands.console import named_fault
from mbert.commands.convert import convert
from mbert.commands.demo import demo
from mbert.commands.doctor import doctor
from mbert.commands.eval import evaluate
from mbert.commands.finetune import finetune
from mbert.commands.forget import forget
from mbert.commands.info import info
from mbert.commands.ingest import ingest
from mbert.commands.labels import labels
from mbert.commands.predict import predict
from mbert.commands.pretrain import pretrain
from mbert.commands.preview import preview
from mbert.commands.report import report
from mbert.commands.runs import runs
from mbert.commands.shard import shard
from mbert.commands.synthesize import synthesize
from mbert.commands.verify import verify
from mbert.commands.weights import weights

# Words that people try first, and the commands they mean.
_MEANT = {
    "pretrain": "mbert train pretrain",
    "finetune": "mbert train finetune",
    "evaluate": "mbert eval",
    "synth": "mbert synthesize",
    "help": "mbert --help",
    "version": "mbert --version",
    "-v": "mbert --version",
    "-V": "mbert --version",
}


class _Group(TyperGroup):
    """The single place that turns our errors and Ctrl-C into a line and an exit code; with --json into an object."""

    is_json = False

    def main(self, args: Sequence[str] | None = None, **how: Any) -> Any:  # type: ignore[override]
        self.is_json = "--json" in (sys.argv[1:] if args is None else args)
        if not self.is_json:
            return super().main(args=args, **how)
        try:
            code = super().main(args=args, **{**how, "standalone_mode": False})
        except Exception as exc:
            if not hasattr(exc, "format_message"):  # a usage error of typer
                raise
            _say_json("UsageError", exc.format_message(), 2)
            code = 2
        sys.exit(code if isinstance(code, int) else 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] in _MEANT:
            self._end(ConfigError(f"there is no option {args[0]}; did you mean `{_MEANT[args[0]]}`?"))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MbertError as exc:
            self._end(exc)
        except OSError as exc:
            self._end(named_fault(exc))
        except typer.BadParameter as exc:
            exc.message = exc.message.removeprefix("Value error, ")  # typer shows whose error it was
            raise
        except KeyboardInterrupt:
            typer.secho("interrupted: run the same command again to resume", fg="yellow", err=True)
            if self.is_json:
                _say_json("KeyboardInterrupt", "interrupted", 130)
            raise typer.Exit(130) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in _MEANT and args[0] not in self.commands:
            raise ConfigError(f"there is no command {args[0]}; did you mean `{_MEANT[args[0]]}`?")
        return super().resolve_command(ctx, args)

    def _end(self, exc: MbertError) -> NoReturn:
        code = 2 if isinstance(exc, ConfigError) else 1
        if is_first_process() or not exc.is_reported:
            typer.secho(f"error: {exc}", fg="red", err=True)
            if self.is_json:
                _say_json(type(exc).__name__, str(exc), code)
        raise typer.Exit(code) from exc


def _say_json(kind: str, message: str, code: int) -> None:
    typer.echo(json.dumps({"error": {"kind": kind, "message": message, "exit_code": code}}))


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


app.command()(predict)
app.command()(ingest)
app.command()(info)
app.command()(preview)
app.command()(labels)
app.command()(shard)
app.command()(verify)
app.command()(forget)
app.add_typer(train, name="train")
train.command()(pretrain)
train.command()(finetune)
app.command("eval")(evaluate)
app.command()(runs)
app.command()(report)
app.command()(convert)
app.add_typer(weights, name="weights")
app.command()(synthesize)
app.command()(demo)
app.command()(doctor)


def main() -> None:
    """Entry point of the `mbert` command."""
    app()


if __name__ == "__main__":
    main()
