"""Ensembles: what each combination computes, what fit trains, saving, and what is refused."""

import json

import numpy as np
import pytest

import tinydl as tl
from tinydl.layers import layer_config, layer_from_config

L = tl.layers
rng = np.random.default_rng(0)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def member(seed, outputs=3, loss="sparse_categorical_crossentropy", dtype="float64", last=None):
    model = tl.Sequential(
        [L.Dense(6, activation="tanh"), L.Dense(outputs, activation=last)], seed=seed, dtype=dtype
    )
    model.build_model((5,))
    for p in model.parameters():
        p.value *= 3  # so that members disagree
    if loss:
        model.compile("adam", loss)
    return model


def members(count=3, **arguments):
    return [member(seed, **arguments) for seed in range(count)]


def outputs_of(models, x):
    return np.array([model.predict(x) for model in models])


X = rng.normal(size=(40, 5))


# ---- what is computed ------------------------------------------------------------------------------------


def test_mean_of_probabilities_comes_out_as_logits():
    models = members()
    log_p = tl.Ensemble(models).predict(X)
    np.testing.assert_allclose(np.exp(log_p), softmax(outputs_of(models, X)).mean(axis=0))
    np.testing.assert_allclose(softmax(log_p), np.exp(log_p))  # they are logits of themselves


@pytest.mark.parametrize("outputs", [1, 2])
def test_mean_of_binary_probabilities_comes_out_as_logits(outputs):
    models = members(outputs=outputs, loss="binary_crossentropy")
    logits = tl.Ensemble(models).predict(X)
    np.testing.assert_allclose(sigmoid(logits), sigmoid(outputs_of(models, X)).mean(axis=0))


def test_values_are_averaged_as_they_are():
    for arguments in ({"loss": "mse"}, {"last": "softmax", "loss": None}):
        models = members(**arguments)
        ensemble = tl.Ensemble(models)
        assert ensemble.outputs == "values"
        np.testing.assert_allclose(ensemble.predict(X), outputs_of(models, X).mean(axis=0))


def test_weighted():
    models = members()
    ensemble = tl.Ensemble(models, "weighted", weights=[1, 0, 3])
    np.testing.assert_allclose(ensemble.weights, [0.25, 0, 0.75])
    p = softmax(outputs_of(models, X))
    np.testing.assert_allclose(np.exp(ensemble.predict(X)), 0.25 * p[0] + 0.75 * p[2])


def test_vote():
    models = members(5)
    p = softmax(outputs_of(models, X))
    votes = np.array([np.bincount(row, minlength=3) for row in p.argmax(axis=-1).T])
    expected = (votes + p.mean(axis=0) / 2) / 5.5
    y = np.exp(tl.Ensemble(models, "vote").predict(X))
    np.testing.assert_allclose(y, expected)
    np.testing.assert_allclose(y.sum(axis=1), 1)
    ties = np.sort(votes, axis=1)[:, -1] == np.sort(votes, axis=1)[:, -2]
    assert ties.any() and not ties.all()
    np.testing.assert_array_equal(y.argmax(axis=1)[~ties], votes.argmax(axis=1)[~ties])
    for row in np.flatnonzero(ties):  # the likelier of the tied ones
        tied = votes[row] == votes[row].max()
        assert y[row].argmax() == np.where(tied, p.mean(axis=0)[row], 0).argmax()


def test_vote_of_binary_members():
    models = members(3, outputs=1, loss="binary_crossentropy")
    z = outputs_of(models, X)
    expected = ((z > 0).sum(axis=0) + sigmoid(z).mean(axis=0) / 2) / 3.5
    np.testing.assert_allclose(sigmoid(tl.Ensemble(models, "vote").predict(X)), expected)


def test_stacking_begins_as_the_mean():
    models = members()
    p = softmax(outputs_of(models, X))
    geometric = np.exp(np.log(p).mean(axis=0))
    y = softmax(tl.Ensemble(models, "stacking").predict(X))
    np.testing.assert_allclose(y, geometric / geometric.sum(axis=1, keepdims=True))
    models = members(loss="mse")
    np.testing.assert_allclose(
        tl.Ensemble(models, "stacking").predict(X), outputs_of(models, X).mean(axis=0)
    )


def test_members_that_are_certain_give_finite_logits():
    models = members()
    for model in models:
        model.parameters()[-2].value *= 1e4
    for combine in ("mean", "weighted", "vote", "stacking"):
        ensemble = tl.Ensemble(models, combine)
        y = ensemble.forward(X)
        assert np.isfinite(y).all()
        assert np.isfinite(ensemble.backward(np.ones_like(y))).all()


@pytest.mark.parametrize("combine", ["mean", "weighted", "vote", "stacking"])
@pytest.mark.parametrize(
    ("outputs", "loss"),
    [(3, "sparse_categorical_crossentropy"), (2, "binary_crossentropy"), (2, "mse")],
)
def test_gradients(combine, outputs, loss):
    if (combine, loss) == ("vote", "mse"):
        return
    ensemble = tl.Ensemble(members(outputs=outputs, loss=loss), combine)
    report = tl.gradcheck(ensemble, X[:3])
    report.assert_ok()
    trained = {"weighted": ["theta"], "stacking": ["head.weight", "head.bias"]}
    assert [array.name for array in report.arrays] == [*trained.get(combine, []), "input"]


def test_gradients_with_given_weights_and_a_head_of_ones_own():
    tl.gradcheck(tl.Ensemble(members(), "weighted", weights=[0.2, 0, 0.8]), X[:3]).assert_ok()
    head = tl.Sequential([L.Dense(4, activation="tanh"), L.Dense(3)], dtype="float64")
    ensemble = tl.Ensemble(members(), "stacking", head=head)
    tl.gradcheck(ensemble, X[:3]).assert_ok()


def test_members_that_are_other_kinds_of_models():
    x, z = tl.Input((5,)), tl.Input((2,))
    two_inputs = [
        tl.Model([x, z], L.Dense(3)(L.Concatenate()([x, z])), seed=s, dtype="float64")
        for s in (1, 2)
    ]
    ensemble = tl.Ensemble(two_inputs, outputs="logits")
    tl.gradcheck(ensemble, [X[:3], rng.normal(size=(3, 2))]).assert_ok()
    nested = tl.Ensemble([tl.Ensemble(members(2)), member(5)])
    assert nested.outputs == "logits"
    tl.gradcheck(nested, X[:3]).assert_ok()


def test_sequences_with_masks():
    models = []
    for seed in range(2):
        layers = [L.Embedding(5, 3, mask_zero=True), L.GRU(4, return_sequences=True), L.Dense(2)]
        models.append(tl.Sequential(layers, seed=seed))
        models[-1].compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        models[-1].build_model((None,))
    x, y = np.array([[1, 2, 0, 0], [3, 4, 1, 2]]), np.array([[0, 1, -1, -1], [1, 1, 0, 0]])
    ensemble = tl.Ensemble(models, "weighted")
    ensemble.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    ensemble.fit(x, y, batch_size=2, epochs=1, verbose=0)
    assert np.isfinite(ensemble.evaluate(x, y)["loss"])


# ---- training --------------------------------------------------------------------------------------------


def problem(seed=0):
    """Three classes; what is learned from 40 samples leaves room for improvement."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(600, 5))
    y = (x @ np.random.default_rng(9).normal(size=(5, 3)) + 0.5 * x[:, :3] ** 2).argmax(axis=1)
    return x, y


def trained_members(good=3, bad=0):
    x, y = problem()
    models = []
    for seed in range(good + bad):
        model = member(seed)
        labels = y if seed < good else np.random.default_rng(seed).permutation(y)
        model.compile(tl.optimizers.Adam(0.03), "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(x[:60], labels[:60], epochs=25, batch_size=20, verbose=0)
        models.append(model)
    return models, x, y


def compiled(ensemble, learning_rate=0.05):
    ensemble.compile(
        tl.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", ["accuracy"]
    )
    return ensemble


def test_the_mean_is_at_least_as_likely_as_the_average_member():
    models, x, y = trained_members()
    losses = [model.evaluate(x[300:], y[300:])["loss"] for model in models]
    assert compiled(tl.Ensemble(models)).evaluate(x[300:], y[300:])["loss"] < np.mean(losses)


def test_weights_are_learned_from_new_data():
    """Two members that were trained on shuffled labels lose their weight."""
    models, x, y = trained_members(good=2, bad=2)
    ensemble = compiled(tl.Ensemble(models, "weighted"))
    before = ensemble.evaluate(x[300:], y[300:])["loss"]
    kept = [w for model in models for w in model.get_weights()]
    ensemble.fit(x[60:300], y[60:300], epochs=20, verbose=0)
    assert ensemble.weights[:2].sum() > 0.9
    assert ensemble.weights.sum() == pytest.approx(1)
    assert ensemble.evaluate(x[300:], y[300:])["loss"] < 0.8 * before
    for old, new in zip(kept, (w for m in models for w in m.get_weights()), strict=True):
        np.testing.assert_array_equal(old, new)


def test_stacking_trains_its_head_alone():
    models, x, y = trained_members(good=2, bad=1)
    ensemble = compiled(tl.Ensemble(models, "stacking"), 0.02)
    before = ensemble.evaluate(x[300:], y[300:])
    kept = [w for model in models for w in model.get_weights()]
    ensemble.fit(x[60:300], y[60:300], epochs=30, verbose=0)
    after = ensemble.evaluate(x[300:], y[300:])
    assert after["loss"] < 0.8 * before["loss"]
    assert after["accuracy"] > before["accuracy"]
    for old, new in zip(kept, (w for m in models for w in m.get_weights()), strict=True):
        np.testing.assert_array_equal(old, new)


def test_members_run_as_in_inference_while_the_ensemble_is_trained():
    models = []
    for seed in range(2):
        layers = [L.Dropout(0.5), L.BatchNorm(), L.Dense(3)]
        models.append(tl.Sequential(layers, seed=seed, dtype="float64"))
        models[-1].build_model((5,))
    ensemble = tl.Ensemble(models, "stacking", outputs="logits")
    np.testing.assert_array_equal(ensemble.forward(X, training=True), ensemble.forward(X))
    means = [model.sublayers[1].state["running_mean"] for model in models]
    assert not np.any(means)


def test_members_can_go_on_training_by_themselves():
    models, x, y = trained_members(good=2)
    ensemble = compiled(tl.Ensemble(models))
    before = ensemble.predict(x[:5])
    models[0].fit(x[:60], y[:60], epochs=1, verbose=0)
    assert (ensemble.predict(x[:5]) != before).any()


@pytest.mark.parametrize(
    ("combine", "weights"), [("mean", None), ("vote", None), ("weighted", [1, 1, 1])]
)
def test_nothing_to_train(combine, weights):
    ensemble = compiled(tl.Ensemble(members(), combine, weights))
    with pytest.raises(ValueError, match=f"combines by '{combine}'.*has nothing to train"):
        ensemble.fit(X, np.zeros(len(X), int))


# ---- saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("combine", "arguments"),
    [
        ("mean", {}),
        ("weighted", {}),
        ("weighted", {"weights": [1, 2, 3]}),
        ("vote", {}),
        ("stacking", {}),
        ("stacking", {"head": L.Dense(2, activation="tanh")}),
    ],
)
def test_files(combine, arguments, tmp_path):
    ensemble = compiled(tl.Ensemble(members(), combine, **arguments))
    for p in ensemble.parameters():
        p.value += rng.normal(size=p.shape)
    ensemble.save(tmp_path / "ensemble.safetensors")
    loaded = tl.load(tmp_path / "ensemble.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), ensemble.predict(X))
    np.testing.assert_array_equal(loaded.weights, ensemble.weights)
    config = layer_config(ensemble)
    assert layer_config(layer_from_config(json.loads(json.dumps(config)))) == config


def test_summary_shows_the_members(capsys):
    tl.Ensemble(members(2)).summary()
    text = capsys.readouterr().out
    assert text.count("(Sequential)") == 2 and "dense (Dense)" in text


def test_set_weights_reaches_the_members():
    ensemble, other = tl.Ensemble(members()), tl.Ensemble([member(s) for s in (7, 8, 9)])
    other.set_weights(ensemble.get_weights())
    np.testing.assert_array_equal(other.predict(X), ensemble.predict(X))


# ---- what is refused -------------------------------------------------------------------------------------


def test_members_that_do_not_fit_together():
    a, b = members(2)
    with pytest.raises(ValueError, match="a list of two or more models"):
        tl.Ensemble([a])
    with pytest.raises(TypeError, match="item 1 is not a model"):
        tl.Ensemble([a, L.Dense(3)])
    with pytest.raises(ValueError, match="stands there twice"):
        tl.Ensemble([a, b, a])
    with pytest.raises(TypeError, match=r"computes in float32.*members need one dtype"):
        tl.Ensemble([a, member(3, dtype="float32")])
    with pytest.raises(ValueError, match=r"gives logits, 'sequential.*' gives values"):
        tl.Ensemble([a, member(3, loss="mse")])
    with pytest.raises(ValueError, match=r"gives outputs of shape \(2,\), 'sequential' of \(3,\)"):
        tl.Ensemble([a, member(3, outputs=2)])
    with pytest.raises(ValueError, match="nothing tells whether 'sequential' gives logits"):
        tl.Ensemble([member(1, loss=None), b])
    x = tl.Input((5,))
    two = [tl.Model(x, [L.Dense(3)(x), L.Dense(3)(x)], dtype="float64") for _ in range(2)]
    with pytest.raises(ValueError, match="has several outputs"):
        tl.Ensemble(two, outputs="logits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"combine": "median"},
            "combine must be one of mean, weighted, vote, stacking, got 'median'",
        ),
        ({"outputs": "scores"}, "outputs must be one of .* got 'scores'"),
        ({"weights": [1, 1, 1]}, "weights go with combine='weighted', not 'mean'"),
        ({"combine": "weighted", "weights": [1, 1]}, "3 models need 3 weights, got 2"),
        ({"combine": "weighted", "weights": [1, -1, 1]}, "must be numbers >= 0"),
        ({"combine": "weighted", "weights": [0, 0, 0]}, "not all 0"),
        (
            {"combine": "vote", "head": L.Dense(1)},
            "a head goes with combine='stacking', not 'vote'",
        ),
        ({"combine": "vote", "outputs": "values"}, "models vote for classes"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tl.Ensemble(members(), **arguments)


def test_probabilities_in_front_of_a_loss_of_logits():
    ensemble = tl.Ensemble(members(last="softmax", loss=None))
    with pytest.raises(ValueError, match="ends in a softmax"):
        ensemble.compile(loss="sparse_categorical_crossentropy")
