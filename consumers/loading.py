"""Finds the app of a handler worker by its name: package.module:app; and functions of RQ jobs."""

import os
import sys
import traceback
from importlib import import_module
from types import ModuleType

from consumers.app import App, Handler
from dispatcher import InvalidSettings


def load_app(where: str) -> App:
    """Import an app, also from the working directory; raises InvalidSettings with one line.

    What else the module raises is written to standard error first, with its traceback.
    """
    module_name, colon, names = where.partition(":")
    if not (colon and module_name and names):
        raise InvalidSettings(f"--app {where!r} must look like package.module:app")
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    found: object = _module(module_name, where, directory)
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise InvalidSettings(f"--app {where}: {module_name} has no {names!r}") from None
    if not isinstance(found, App):
        kind = type(found).__name__
        raise InvalidSettings(f"--app {where} is of type {kind}, not a consumers.App")
    if not found:
        raise InvalidSettings(f"--app {where} has no handler; write one with @{names}.handler()")
    return found


def load_function(where: str) -> Handler:
    """Import a function by its dotted path; raises InvalidSettings with one line."""
    module_name, _, name = where.replace(":", ".").rpartition(".")
    if not module_name:
        raise InvalidSettings(f"{where!r} must look like package.module.function")
    found: object = getattr(_module(module_name, where, os.getcwd(), said=""), name, None)
    if not callable(found):
        raise InvalidSettings(f"{where}: {module_name} has no function {name!r}")
    return found


def _module(name: str, where: str, directory: str, *, said: str = "--app ") -> ModuleType:
    where = f"{said}{where}"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        hint = f" in {directory} or among what is installed"
        ours = f"{name}.".startswith(f"{missing}.")
        problem = f"there is no module {missing!r}{hint if ours else f', which {name} imports'}"
        raise InvalidSettings(f"{where}: {problem}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a program raises
        traceback.print_exc()
        problem = traceback.format_exception_only(error)[-1].split("\n", 1)[0]
        raise InvalidSettings(f"{where}: importing {name} failed: {problem}") from None
