"""Networks in the user's own Python file: `py:FILE.py:FUNCTION`."""

from __future__ import annotations

from dlcv.export.sources.base import ExportSource, SourceOptions, settings_from_text
from dlcv.export.sources.module import ModuleFacts, facts_from_options, source_from_module
from dlcv.export.sources.pretrained import origin_of, seeded, take_weights
from dlcv.runtime.errors import InputError
from dlcv.train.models.python_file import call_builder, file_and_function, load_function


def source_from_python_file(spec: str, options: SourceOptions) -> ExportSource:
    """Build a network by a function, or class, of a Python file, which is run for it.

    spec: FILE.py:FUNCTION. The function takes what `--set` gives, and returns an `nn.Module`.

    Raises:
        InputError: there is no such file or function, it fails, or it returns no module; options that do not fit.
        RecipeError: the weights file does not fit.
    """
    file, name = file_and_function(spec)
    if options.weights is None and not options.random:
        raise InputError(
            f"py:{spec} needs --weights FILE with its trained weights, or --random for random ones"
        )
    build = load_function(file, name)
    arguments = settings_from_text(options.settings)
    with seeded():
        module = call_builder(build, arguments, what=f"{name} in {file}")
    module = take_weights(module, options)
    return source_from_module(
        module,
        ModuleFacts(
            name=name,
            description=f"{name} of {file.name}.",
            origin=origin_of(f"py:{file.name}:{name}", options),
            remake=(f"dlcv-export bundle py:{file.name}:{name}{options.command_line}",),
            **facts_from_options(options),
        ),
    )
