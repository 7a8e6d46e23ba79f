"""Which routes answer for which kind of model, in the words of a hint."""

from collections.abc import Mapping

from beicli.model.spec import ModelSpec, Task

# What every model is on a Truss platform, which asks `/v1/models/model` whether it is ready.
PLATFORM_MODEL_NAME = "model"

_WORDS: Mapping[Task, str] = {
    Task.EMBEDDING: "an embedding model",
    Task.SPARSE_EMBEDDING: "a sparse embedding model",
    Task.CLASSIFICATION: "a classifier",
    Task.RERANKING: "a reranker",
    Task.TOKEN_CLASSIFICATION: "a token classifier",
}
_ROUTES: Mapping[Task, tuple[str, ...]] = {
    Task.EMBEDDING: (
        "/v1/embeddings",
        "/embed",
        "/embed_all",
        "/similarity",
        "/v2/embed",
    ),
    Task.SPARSE_EMBEDDING: ("/embed_sparse",),
    Task.CLASSIFICATION: ("/predict",),
    Task.RERANKING: ("/rerank", "/v1/rerank", "/v2/rerank", "/predict"),
    Task.TOKEN_CLASSIFICATION: ("/predict_tokens",),
}


# Paths that ask for a task; `/predict` is first a classifier's, which rerankers are too.
_TASK_BY_PATH: dict[str, Task] = {"/embeddings": Task.EMBEDDING}
for _task, _paths in _ROUTES.items():
    for _path in _paths:
        _TASK_BY_PATH.setdefault(_path, _task)


def answers(path: str, model: ModelSpec) -> bool:
    """Whether `model` does what `POST path` asks for; some paths every model answers."""
    task = _TASK_BY_PATH.get(path)
    return task is None or task in tasks_of(model)


def words_for(task: Task) -> str:
    """Return what a model of `task` is called, with its article."""
    return _WORDS[task]


def tasks_of(model: ModelSpec) -> frozenset[Task]:
    """Return what a model can be asked for: some classifiers rank texts too, rerankers classify."""
    if model.task is Task.RERANKING:
        return frozenset({Task.RERANKING, Task.CLASSIFICATION})
    if model.task is Task.CLASSIFICATION and model.relevance_label is not None:
        return frozenset({Task.RERANKING, Task.CLASSIFICATION})
    return frozenset({model.task})


def routes_of(model: ModelSpec) -> tuple[str, ...]:
    """Return the routes that answer for `model`, the usual one first."""
    return _ROUTES[Task.RERANKING if Task.RERANKING in tasks_of(model) else model.task]


def root_route(model: ModelSpec) -> str:
    """Return where `POST /` leads, as text-embeddings-inference chooses it."""
    if model.task is Task.EMBEDDING:
        return "/embed"
    return _ROUTES[model.task][0]


def platform_route(model: ModelSpec, configured: str | None) -> str:
    """Return where a Truss platform's bare predict address leads.

    The configuration decides. Otherwise a reranker answers `/predict` too, as on the platform.
    """
    if configured is not None:
        return configured
    return "/predict" if model.task is Task.RERANKING else _ROUTES[model.task][0]


def describe_model(name: str, model: ModelSpec) -> str:
    """Say what the served model is and where to ask it, for whoever asked elsewhere."""
    return f"`{name}` is {_WORDS[model.task]}: use {', '.join(routes_of(model))}"
