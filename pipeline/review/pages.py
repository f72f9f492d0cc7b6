"""MLflow's own pages that show a study's front, and the columns that its table of runs has there.

MLflow (3.17) keeps those columns in the browser. The one thing that a store can say of them is a view to be shared: a tag of
the experiment, ``mlflow.sharedViewState.KEY``, read where an address has ``viewStateShareKey=KEY`` and names no filter or order
of its own. It holds filter, order and columns as JSON, which MLflow itself compresses but reads plain as well.
"""

from __future__ import annotations

from urllib.parse import quote

from foundation.files import json_text
from pipeline.review.tags import DECISION, FRONT, SOURCE

BY_LATENCY = "the front by latency"
ORDER = "metrics.`latency_ms`"
COLUMNS = (
    "metrics.`error`",
    ORDER,
    "metrics.`size_bytes`",
    "metrics.`divergence`",
    *(f"tags.`{name}`" for name in (FRONT, DECISION, SOURCE)),
)
FACE = "workflowType=machine_learning"  # MLflow's pages for models of other kinds hide what these need


def view_of_front(identity: str) -> tuple[str, str]:
    """The experiment's tag and its value: the runs on this study's front by latency, their figures as columns."""
    view = {
        "searchFilter": _front_of(identity),
        "orderByKey": ORDER,
        "orderByAsc": True,
        "selectedColumns": COLUMNS,
    }
    return f"mlflow.sharedViewState.{identity}", json_text(view)


def pages_of(experiment: str, identity: str) -> dict[str, str]:
    """By what they show, addresses behind that of the store; ``BY_LATENCY`` needs the tag of ``view_of_front``."""
    start = f"#/experiments/{experiment}"
    drawn = f"searchFilter={quote(_front_of(identity), safe='')}&orderByKey={quote(ORDER, safe='')}&orderByAsc=true"
    return {
        BY_LATENCY: f"{start}/runs?{FACE}&viewStateShareKey={identity}",
        "drawn over each other": f"{start}/runs?{FACE}&{drawn}&compareRunsMode=CHART",
        "its models": f"{start}/models?{FACE}",
    }


def _front_of(identity: str) -> str:
    return f"tags.`{FRONT}` = 'true' and tags.study_id = '{identity}'"
