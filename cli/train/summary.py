"""`dlcv-train summary`."""

from __future__ import annotations

from typing import Annotated

import typer


def summary(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's name, such as timm:resnet18, or a recipe: its name or file.",
            show_default=False,
        ),
    ],
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="KEY=VALUE", help="An option of the model; repeat for more."
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Classes; a recipe knows its own.")] = 10,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Input in pixels; 224x224, or a recipe's own."),
    ] = None,
) -> None:
    """Print a network's layers: output shape and parameters of each, and their sum.

    \b
    Examples:
      dlcv-train summary small_cnn --size 32x32
      dlcv-train summary fcn_vgg16 -o stride=8 --classes 7 --size 512x512
      dlcv-train summary cifar10-net1
    """
    import yaml

    from dlcv.cli.text import key_values, size_from_text
    from dlcv.runtime.bundle.report import table
    from dlcv.train.models import LIBRARIES, MODELS, build_model
    from dlcv.train.recipe import load_recipe, with_options
    from dlcv.train.summary import layer_rows
    from dlcv.train.tasks import task_kind

    chosen = size_from_text(size)
    options = {key: yaml.safe_load(value) for key, value in key_values(option, "--option").items()}
    if model in MODELS or model.partition(":")[0] in LIBRARIES:
        network = build_model(model, options, num_classes=classes).network
        chosen = chosen or (224, 224)
    else:
        recipe = with_options(load_recipe(model), options)
        network = task_kind(recipe.task).network(recipe).network
        chosen = chosen or recipe.preprocessing.size
    rows = layer_rows(network, chosen)
    lines = table(
        [
            ("layer", "kind", "output", "parameters"),
            *((row.name, row.kind, row.output, f"{row.parameters:,}") for row in rows),
        ]
    )
    print("\n".join(lines))
    total = sum(p.numel() for p in network.parameters())
    print(f"{total:,} parameters; input (1, 3, {chosen[0]}, {chosen[1]})")
