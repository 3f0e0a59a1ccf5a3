"""Measures of a model become part of its card on the Hub."""

from huggingface_hub import EvalResult, ModelCardData, metadata_update

from .transfer import pushing_to


def push_metrics(
    repo_id: str,
    dataset: str,
    split: str,
    metrics: dict[str, float],
    *,
    task: str,
    token: str | None = None,
) -> str:
    """Write measures into the metadata of a model's card, in place of older ones on the same split.

    Args:
        repo_id: of the model.
        dataset, split: that were measured on.
        metrics: by name.
        task: the Hub's name of what the model does.

    Returns:
        The address of the commit.

    Raises:
        UserError: the Hub can't be reached or refuses.
    """
    results = [EvalResult(task, dataset, dataset, name, value, dataset_split=split) for name, value in metrics.items()]
    data = ModelCardData(model_name=repo_id.rpartition("/")[2], eval_results=results)
    with pushing_to(repo_id, token):
        return metadata_update(repo_id, data.to_dict(), overwrite=True, token=token)
