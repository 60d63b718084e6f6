"""Where the int8 model first goes wrong: the one place that the report, its page, the text and the warnings name."""

from __future__ import annotations

from collections.abc import Sequence

from shared.layer_report import FirstWrong, LayerSummary
from worker.closeness import FAR_DB


def first_wrong(layers: Sequence[LayerSummary]) -> FirstWrong | None:
    """The first layer, in the graph's order, whose output is far from float while what arrives at it is not.

    None when there is none, or when layers were not compared.
    """
    for layer in layers:
        error = layer.error
        if error is None or error.sqnr_db is None or not error.sqnr_db < FAR_DB:
            continue
        if error.arriving_sqnr_db is None or error.arriving_sqnr_db >= FAR_DB:
            arriving, own = (
                "no error" if value is None else f"{value:.1f} dB"
                for value in (error.arriving_sqnr_db, error.own_sqnr_db)
            )
            told = (
                f"The int8 model first goes wrong at {layer.name}: {error.sqnr_db:.1f} dB at its output, where "
                f"{arriving} arrives and {own} is made in it."
            )
            return FirstWrong(layer=layer.name, told=told)
    return None
