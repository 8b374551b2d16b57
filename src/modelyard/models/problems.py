"""What keeps a listed model from being served: words that several places say, the error, and the advice by kind. Pure.

A model's problem is one text, which lists and errors show alike. Advice for one kind would mislead about another:
nobody mends a model that brings program code by fetching it again.
"""

from __future__ import annotations

from modelyard.errors import N_, ModelFileError
from modelyard.types.model import Model

PICKLED_WEIGHTS = N_("its weights are pickled, which may run code when read; convert them to safetensors")
OWN_CODE = N_("it needs program code of its own (auto_map), which is not run")
NO_CONFIG = N_("there is no config.json")
NO_WEIGHTS = N_("there are no weights")

_MISSING = N_("Copy what is missing into its folder, from where the model was published.")
_CONFIG = N_("Compare its configuration with the one where the model was published.")
_UNSAFE = N_("No setting changes this. Take a copy, or another model, that is loaded without program code.")
# The first whose words are in the problem gives the advice.
_ADVICE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("are pickled", (N_("Convert the weights to safetensors, or take a copy that has them."),)),
    ("(auto_map)", (N_("If you have read its code and trust it, name this very folder in models.code_folders."),)),
    ("program code", (_UNSAFE,)),
    ("outside of its folder", (_UNSAFE,)),
    ("model_path cannot be read", (N_("Look at model_path in models.command.{model}: is it there, and readable?"),)),
    (NO_CONFIG, (_MISSING,)),
    ("no weights", (_MISSING,)),
    ("is missing", (_MISSING,)),
    ("configuration", (_CONFIG,)),
    (".json", (_CONFIG,)),
    ("cannot be read:", (N_("Check that its files are there and may be read by the user the server runs as."),)),
    ("it is a", (N_("It belongs to another model, and is none by itself."),)),
    ("which no request asks for", ()),
)


def unusable(model: Model, *, param: str | None = None) -> ModelFileError:
    """The error for whoever asks for a model with a problem."""
    text, file = N_("{model} cannot be served: {problem}"), None
    if model.files and model.format != "safetensors":
        text, file = N_("{model} cannot be served: {path} is not a usable model file: {problem}"), str(model.files[0])
    return ModelFileError(
        text, model=model.name, path=file, problem=model.problem, param=param, hints=advice(model.problem)
    )


def advice(problem: str) -> tuple[str, ...]:
    """What can be done about a problem, marked for translation.

    >>> advice("it is cut")
    ('Fetch the file again and compare its digest.',)
    """
    return next((hints for words, hints in _ADVICE if words in problem), ModelFileError.hints)
