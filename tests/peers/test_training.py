"""A whole training beside PyTorch's: the same weights at the start, the same batches, the same weights at the end."""

from __future__ import annotations

import numpy as np
import pytest

import tinydl as tl

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).normal(size=(50, 8, 8, 2))
LABELS = np.random.default_rng(1).integers(0, 3, 50)
WEIGHTS = np.random.default_rng(2).uniform(0.5, 2.0, 50)


def ours():
    model = tl.Sequential(
        [
            tl.layers.Conv2D(4, 3, activation="relu", kernel_regularizer=tl.regularizers.L2(0.01)),
            tl.layers.BatchNorm(momentum=0.9, epsilon=1e-5),
            tl.layers.MaxPool2D(2),
            tl.layers.Flatten(),
            tl.layers.Dense(3),
        ],
        dtype="float64",
    )
    model.build_model((8, 8, 2))
    return model


def theirs(model):
    """The same network in PyTorch with the same initial weights; images stay channels-last outside."""

    class ChannelsLast(torch.nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        torch.nn.ReLU(),
        torch.nn.BatchNorm2d(4, eps=1e-5, momentum=0.1),
        torch.nn.MaxPool2d(2),
        ChannelsLast(),
        torch.nn.Linear(36, 3),
    ).double()
    kernel, bias, _, _, weight, dense_bias = model.get_weights()[:6]
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(kernel.transpose(3, 2, 0, 1)))
        net[0].bias.copy_(torch.tensor(bias))
        net[5].weight.copy_(torch.tensor(weight.T))
        net[5].bias.copy_(torch.tensor(dense_bias))
    return net


def train_theirs(net, epochs, batch_size):
    """Mean weighted cross-entropy plus 0.01 Σ w² of the convolution, Adam with gradients clipped to norm 1."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, eps=1e-7)
    images = torch.tensor(X.transpose(0, 3, 1, 2))
    labels, weights = torch.tensor(LABELS), torch.tensor(WEIGHTS)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(X), batch_size):
            part = slice(start, start + batch_size)
            optimizer.zero_grad()
            each = torch.nn.functional.cross_entropy(
                net(images[part]), labels[part], reduction="none"
            )
            loss = (weights[part] * each).mean() + 0.01 * (net[0].weight ** 2).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(each)
        losses.append(total / len(X))
    return losses


def test_a_training_ends_with_pytorchs_weights():
    model = ours()
    net = theirs(model)
    expected = train_theirs(net, epochs=3, batch_size=16)

    model.compile(
        tl.optimizers.Adam(0.01, epsilon=1e-7, global_clipnorm=1.0),
        "sparse_categorical_crossentropy",
    )
    history = model.fit(
        X, LABELS, sample_weight=WEIGHTS, epochs=3, batch_size=16, shuffle=False, verbose=0
    )

    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-5)
    state = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    trained = dict(model.named_parameters())
    pairs = [
        ("conv2d.weight", state["0.weight"].transpose(2, 3, 1, 0)),
        ("conv2d.bias", state["0.bias"]),
        ("batch_norm.gamma", state["2.weight"]),
        ("batch_norm.beta", state["2.bias"]),
        ("dense.weight", state["5.weight"].T),
        ("dense.bias", state["5.bias"]),
    ]
    for name, value in pairs:
        np.testing.assert_allclose(trained[name].value, value, rtol=1e-4, atol=1e-6, err_msg=name)
    net.eval()
    with torch.no_grad():
        logits = net(torch.tensor(X.transpose(0, 3, 1, 2))).numpy()
    # PyTorch's running variance is the unbiased one, ours the population's: close, not equal.
    np.testing.assert_allclose(model.predict(X), logits, rtol=0.05, atol=0.02)
