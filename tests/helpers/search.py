"""Settings of a small search."""

from noah_jax.config.settings import Search

SETTINGS = Search(
    population=20,
    generations=4,
    parents=5,
    mutations=8,
    crossovers=8,
    m_prob=0.2,
    s_prob=0.4,
    budget_millions=0.25,
    least_millions=0.0,
    operators="block",
    objective="accuracy",
    folds=1,
    genomes_per_call=2,
)
