"""``mrl.adapters.sentence_transformers`` in training: their trainer, saved cards, evaluators, PEFT."""

import json

import pytest


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


USED = {
    "ranking": {"symmetric": False, "temperature": 0.05},
    "ranking-negatives": {"symmetric": False, "temperature": 1 / 7},
    "ranking-symmetric": {"symmetric": True, "temperature": 0.05},
    "ranking-dot": {"symmetric": False, "temperature": 1.0},
    "cached": {"symmetric": False, "temperature": 0.05},
    "cached-symmetric": {"symmetric": True, "temperature": 0.05},
}


def test_which_losses_share_a_gram_matrix():
    from adapter_sentence_cases import CACHED, RANKING, SHARED, losses, small_model
    from mrl.adapters.sentence_transformers.contrastive import options_of

    model = small_model()
    for name, (make, _, _) in SHARED.items():
        ranking = name.startswith(("ranking", "cached")) and name != "cached-gist"
        expected = USED.get(name, {"symmetric": False, "temperature": 0.05} if name == "cached-tokens" else None)
        expected = {"symmetric": False, "temperature": 1 / 7} if name == "cached-negatives" else expected
        assert options_of(make(model)) == (expected if ranking else None), name

    class Changed(RANKING):
        def compute_loss_from_embeddings(self, embeddings, labels):
            return 2 * super().compute_loss_from_embeddings(embeddings, labels)

    changed = RANKING(model)
    changed.compute_loss_from_embeddings = lambda embeddings, labels: 0.0
    no_effect = RANKING(model, hardness_mode="hard_negatives", hardness_strength=1e-3)
    no_effect.hardness_strength = 0
    assert options_of(Changed(model)) is options_of(changed) is options_of(losses.CoSENTLoss(model)) is None
    assert options_of(CACHED(model, gather_across_devices=True)) is None  # on one device it warns
    assert options_of(no_effect) == USED["ranking"]


def trainer_of(folder, loss_of, columns=2, model=None, labels=None, steps=3, **options):
    from adapter_sentence_cases import TEXTS, small_model
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    model = model or small_model()
    data = dict(zip(("anchor", "positive", "negative"), TEXTS[:columns], strict=False))
    data = {name: texts * 4 for name, texts in data.items()} | ({} if labels is None else {"label": labels * 4})
    args = SentenceTransformerTrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=1,
        **{"save_strategy": "no"} | options,
    )
    return SentenceTransformerTrainer(model, args, train_dataset=Dataset.from_dict(data), loss=loss_of(model))


def logged(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"bf16": True}], ids=["accumulate", "bf16"])
def test_their_trainer(options, tmp_path):
    from adapter_sentence_cases import CACHED, RANKING, MatryoshkaLoss, losses

    for make in (RANKING, lambda model: CACHED(model, mini_batch_size=2)):
        found = []
        for kind in (MatryoshkaLoss, losses.MatryoshkaLoss):
            trainer = trainer_of(tmp_path, lambda m, k=kind, f=make: k(m, f(m), [4, 16], [2, 1]), **options)
            trainer.train()
            found.append(logged(trainer))
        assert found[0] == pytest.approx(found[1], rel=1e-4 if "bf16" not in options else 2e-2)
        assert len(found[0]) == 3 and found[0][0] != found[0][-1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_what_is_saved_and_what_goes_on_from_it(tmp_path):
    import torch
    from adapter_sentence_cases import RANKING, WIDTH, MatryoshkaLoss
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    import mrl

    def loss_of(model):
        return MatryoshkaLoss(model, RANKING(model), [4, 8, WIDTH], n_dims_per_step=1)

    trainer = trainer_of(tmp_path, loss_of, steps=4, save_strategy="steps", save_steps=2)
    assert not hasattr(trainer.model[0].auto_model.config, "is_matryoshka")
    trainer.train()
    trainer.save_model(str(tmp_path / "end"))
    for folder in (tmp_path / "checkpoint-2", tmp_path / "end"):
        assert mrl.read_matryoshka_card(folder) == mrl.Nesting((4, 8, WIDTH))
    said = (tmp_path / "end" / "README.md").read_text(encoding="utf-8")
    assert "loss:MatryoshkaLoss" in said and "2205.13147" in said
    config = json.loads(said.split("```json\n")[1].split("```")[0])
    assert config["matryoshka_dims"] == [WIDTH, 8, 4] and config["loss"] == "MultipleNegativesRankingLoss"

    again = SentenceTransformer(str(tmp_path / "end"), device="cpu")
    texts = ["a cat", "a dog", "rain"]
    z = again.encode(texts, convert_to_tensor=True)
    assert z.equal(trainer.model.eval().encode(texts, convert_to_tensor=True))
    small = again.encode(texts, convert_to_tensor=True, truncate_dim=4, normalize_embeddings=True)
    torch.testing.assert_close(small, mrl.truncate(z, 4))
    for dim in (4, 8, WIDTH):
        evaluate = EmbeddingSimilarityEvaluator(texts, ["cat", "dogs", "snow"], [1.0, 0.8, 0.1], truncate_dim=dim)
        assert all(value == value for value in evaluate(again).values())

    # The draws go on where they were, if the loss is told the step.
    resumed = trainer_of(tmp_path, loss_of, steps=4)
    resumed.loss.step = 2
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged(resumed)[-2:] == pytest.approx(logged(trainer)[-2:], rel=1e-5)


def test_models_whose_configuration_cannot_say_it_go_without_a_card():
    from adapter_sentence_cases import RANKING, WIDTH, MatryoshkaLoss, batch, small_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    wide = small_model()
    wide[0].auto_model.config.hidden_size = 8
    MatryoshkaLoss(wide, RANKING(wide), [4, WIDTH])(batch(wide), None)
    assert not hasattr(wide[0].auto_model.config, "is_matryoshka")
    words = SentenceTransformer(modules=[BoW(["cat", "dog", "sat", "ran"])], device="cpu")
    assert MatryoshkaLoss(words, RANKING(words), [2, 4])(batch(words), None).isfinite()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_peft():
    import torch
    from adapter_sentence_cases import CACHED, RANKING, MatryoshkaLoss, batch, gradients, losses, small_model
    from peft import LoraConfig, TaskType, get_peft_model

    for make in (RANKING, lambda model: CACHED(model, mini_batch_size=2)):
        found = []
        for kind in (MatryoshkaLoss, losses.MatryoshkaLoss):
            model = small_model()
            torch.manual_seed(0)
            config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=2, target_modules=["query"])
            model[0].model = get_peft_model(model[0].model, config)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # which start at zero
                    torch.nn.init.normal_(parameter)
            loss = kind(model, make(model), [4, 16])
            value = loss(batch(model), None)
            value.backward()
            found.append((value.detach(), gradients(model)))
        assert found[0][1] and all("lora" in name for name in found[0][1])
        torch.testing.assert_close(found[0][0], found[1][0])
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-3, atol=1e-5)
