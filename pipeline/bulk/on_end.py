"""What a bulk job does when its run ends, whatever its outcome: a line of JSON, a command, a webhook."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

from pipeline.bulk.config import OnEnd
from pipeline.errors import UserError

WEBHOOK_SECONDS = 10
COMMAND_SECONDS = 600
PREFIX = "SEGPIPE_END_"  # not SEGPIPE_ alone: SEGPIPE_RUN_ID is the option --run-id of a job that the command starts
OWN_OPTIONS = "SEGPIPE_ON_END__"


def check_on_end(options: OnEnd) -> None:
    """Refuse a webhook that cannot be called, without quoting it.

    Raises:
        UserError: It is no https or http URL.
    """
    if options.webhook is not None and not options.webhook.get_secret_value().startswith(("https://", "http://")):
        raise UserError("--on-end.webhook needs a URL that begins with https:// or http://")


def announce(options: OnEnd, end: dict[str, Any]) -> None:
    """Start the command and call the webhook; a failure of either is a warning.

    Args:
        options: What to do.
        end: The content of the last line.
    """
    text = json.dumps(end)
    if options.command is not None:
        _start(options.command, text, end)
    if options.webhook is not None:
        _post(options.webhook.get_secret_value(), text)


def _start(command: str, text: str, end: dict[str, Any]) -> None:
    """Run a shell command; what it prints goes to standard error, because the last line of standard output is ours."""
    # A job that the command starts must not end by announcing itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OWN_OPTIONS)}
    environment |= {PREFIX + name.upper(): "" if value is None else str(value) for name, value in end.items()}
    try:
        done = subprocess.run(
            command, shell=True, input=text, text=True, env=environment, stdout=sys.stderr, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired:
        _warn(f"--on-end.command took more than {COMMAND_SECONDS} s and was ended")
    except OSError as error:
        _warn(f"--on-end.command could not be started ({error.strerror})")
    else:
        if done.returncode:
            _warn(f"--on-end.command ended with exit code {done.returncode}")


def _post(url: str, text: str) -> None:
    """Post a JSON text; the messages never quote the URL, which may be a secret."""
    headers = {"Content-Type": "application/json", "User-Agent": "segpipe"}
    try:
        request = urllib.request.Request(url, data=text.encode(), headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        _warn(f"--on-end.webhook answered with status {error.code}")
    except Exception as error:  # whatever it is, it must not change how the run ends
        reason = getattr(error, "reason", error)
        cause = getattr(reason, "strerror", None) or type(reason).__name__
        _warn(f"--on-end.webhook could not be called ({cause})")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
