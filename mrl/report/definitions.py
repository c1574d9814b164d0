"""What methods and metrics are, in a sentence each: a report carries those that it has."""

from __future__ import annotations

DEFINITIONS = {
    "prefix": "the first m dimensions, normalised again under cosine",
    "pca": "the first m of the rows turned to their principal axes: eigenvectors of the second moments, about the "
    "origin, of at most 20,000 rows of unit length; normalised again",
    "random": "m coordinates, the first of one seeded permutation, normalised again",
    "unnormalized": "the first m dimensions of rows normalised at the full width, compared by dot product",
    "last": "the last m dimensions, normalised again",
    "int8": "the first m dimensions of rows of unit length, each rounded to 255 steps up to the largest absolute value "
    "of its dimension among at most 20,000 rows; queries, too; cosine",
    "binary": "the signs of the first m dimensions, 1 above 0 and else -1, of queries too; by their product, "
    "m - 2 Hamming",
    "rotation": "the first m dimensions of what the given rotation makes of a row, normalised again",
    "adaptor": "the first m dimensions of what the given adaptor makes of a row, normalised again",
    "recall_at_k": "share of the k nearest rows at the full width that are among the k nearest at m",
    "rank_correlation": "Kendall's tau-b of a query's scores at m and at the full width, over 64 rows drawn for each "
    "query",
    "nn_accuracy": "share of queries whose nearest row has their label",
    "linear_accuracy": "share of held-out rows that a linear head tells: discriminant analysis in closed form, the "
    "covariance within classes shrunk by 0.1 towards a round one, fitted on other rows",
    "fewshot_accuracy_1": "share of held-out rows whose nearest class mean, of 1 row a class, is their own; mean of "
    "draws",
    "fewshot_accuracy_5": "share of held-out rows whose nearest class mean, of 5 rows a class, is their own; mean of "
    "draws",
    "fewshot_accuracy_10": "share of held-out rows whose nearest class mean, of 10 rows a class, is their own; mean of "
    "draws",
    "rare_accuracy": "share of held-out rows of rare classes, with less than half as many rows as a class has on "
    "average, whose nearest class mean, of all fitted rows, is their own",
    "precision_at_k": "hits among the k nearest, over k",
    "map_at_k": "mean of the sum over hits of precision at their place, over k",
    "ndcg_at_k": "discounted gain of the k nearest over that of the best ranking",
}
